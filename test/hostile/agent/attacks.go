package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// attacks are the words about what the agent does by itself, from a moment after the
// container has started. Those that do something again and again never end.
var attacks = map[string]func(context.Context, *guest, string) error{
	"event":   sendEvents,
	"pings":   pings,
	"deaf":    deaf,
	"goaway":  goAway,
	"yamux":   badYamux,
	"ttrpc":   badTTRPC,
	"headers": halfHeaders,
	"names":   unknownNames,
	"sockets": fillSockets,
	"console": floodConsole,
	"end":     end,
}

// pings has the host answer as many pings as fit through, and reads no answer; with the
// argument "read" it reads them.
func pings(_ context.Context, g *guest, argument string) error {
	if argument != "read" {
		g.wire.stopReading()
	}
	for id := uint32(0); ; {
		var many bytes.Buffer
		for range 1000 {
			many.Write(yamuxFrame(yamuxPing, yamuxSYN, 0, id, nil))
			id++
		}
		if err := g.wire.put(many.Bytes()); err != nil {
			return err
		}
	}
}

// deaf reads nothing any more.
func deaf(_ context.Context, g *guest, _ string) error {
	g.wire.stopReading()
	return nil
}

// goAway says that no more streams are wanted, and opens one all the same.
func goAway(_ context.Context, g *guest, _ string) error {
	if err := g.wire.put(yamuxFrame(yamuxGoAway, 0, 0, 0, nil)); err != nil {
		return err
	}
	_, err := g.session.Open()
	return err
}

// farStream is a stream of the guest that it has not reached by itself.
const farStream = 1 << 20

// badYamux breaks the protocol of streams, in the way of the argument.
func badYamux(_ context.Context, g *guest, argument string) error {
	switch argument {
	case "version":
		return g.wire.put(bytes.Repeat([]byte{0xff}, yamuxHeader))
	case "overrun": // sends beyond the window
		return g.repeat(yamuxFrame(yamuxData, 0, 1, mib, make([]byte, mib)))
	case "window": // gives more credit than a number can hold
		return g.repeat(yamuxFrame(yamuxWindow, 0, 1, math.MaxUint32, nil))
	case "unknown": // sends on streams that are not open
		return g.repeat(yamuxFrame(yamuxData, 0, farStream, 16, make([]byte, 16)))
	case "unopened": // opens streams faster than they are accepted
		for id := uint32(farStream); ; id += 2 {
			if err := g.wire.put(yamuxFrame(yamuxWindow, yamuxSYN, id, 0, nil)); err != nil {
				return err
			}
		}
	case "reset": // ends the stream of ttrpc
		return g.wire.put(yamuxFrame(yamuxWindow, yamuxRST, 1, 0, nil))
	case "half": // begins a frame and does not end it
		return g.wire.put(yamuxFrame(yamuxData, 0, 1, mib, []byte("half")))
	}
	return errors.New("no such way")
}

// repeat puts a frame on the wire again and again.
func (g *guest) repeat(frame []byte) error {
	for {
		if err := g.wire.put(frame); err != nil {
			return err
		}
	}
}

// badTTRPC breaks the protocol of calls, in the way of the argument.
func badTTRPC(_ context.Context, g *guest, argument string) error {
	again := func(kind byte, stream func(i uint32) uint32, body []byte) error {
		for i := uint32(0); ; i++ {
			if err := g.rpc.put(ttrpcFrame(kind, stream(i), uint32(len(body)), body)); err != nil {
				return err
			}
		}
	}
	far := func(i uint32) uint32 { return farStream + 1 + 2*i }
	switch argument {
	case "streams": // answers what was not asked
		return again(ttrpcResponse, far, nil)
	case "data":
		return again(ttrpcData, far, make([]byte, 64<<10))
	case "requests": // asks the host
		return again(ttrpcRequest, far, []byte("\x0a\x04Host\x12\x05Spawn"))
	case "types":
		return again(99, far, make([]byte, 1024))
	case "events": // data on the streams that are open, which are no messages
		return again(ttrpcData, func(i uint32) uint32 { return 1 + i%64*2 }, bytes.Repeat([]byte{0xff}, 4096))
	case "length": // more than a message may have
		return g.rpc.put(ttrpcFrame(ttrpcResponse, 1, math.MaxUint32, make([]byte, mib)))
	case "half": // begins a message and does not end it
		return g.rpc.put(ttrpcFrame(ttrpcResponse, 1, mib, []byte("half")))
	}
	return errors.New("no such way")
}

// halfHeaders opens as many streams as the argument says, each with the beginning of a
// header.
func halfHeaders(_ context.Context, g *guest, argument string) error {
	return g.open(argument, func(stream net.Conn) error {
		_, err := stream.Write([]byte{0xff, 0x1f, 0x12}) // the length of 4095 bytes, and one byte
		return err
	})
}

// unknownNames asks for sockets that there are not.
func unknownNames(_ context.Context, g *guest, argument string) error {
	return g.open(argument, func(stream net.Conn) error {
		header := &api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: string(bytes.Repeat([]byte("n"), 4000))}}}
		_, err := protodelim.MarshalTo(stream, header)
		return err
	})
}

// fillSockets opens as many connections to the container's first socket as the argument
// says, and writes to each until no more fits.
func fillSockets(_ context.Context, g *guest, argument string) error {
	g.mu.Lock()
	sockets := g.sockets
	g.mu.Unlock()
	if len(sockets) == 0 {
		return errors.New("the container has no socket")
	}
	return g.open(argument, func(stream net.Conn) error {
		header := &api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: sockets[0].Tag}}}
		if err := api.OpenStream(stream, header); err != nil {
			return err
		}
		go func() {
			for chunk := make([]byte, 64<<10); ; {
				if _, err := stream.Write(chunk); err != nil {
					return
				}
			}
		}()
		return nil
	})
}

// open opens streams, which stay open. One that fails is passed over.
func (g *guest) open(count string, begin func(net.Conn) error) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	failed := 0
	for range n {
		stream, err := g.session.Open()
		if err != nil {
			return err
		}
		if begin(stream) != nil {
			failed++
			stream.Close()
		}
	}
	return fmt.Errorf("%d of %d streams failed", failed, n)
}

// floodConsole writes as much as the console takes: lines, or one line without end.
func floodConsole(_ context.Context, _ *guest, argument string) error {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	text := []byte("a line of the guest's, \x1b[31m and what is in it is the guest's choice \x00\n")
	if argument == "line" {
		text = bytes.Repeat([]byte("x"), 4096)
	}
	for {
		if _, err := console.Write(text); err != nil {
			return err
		}
	}
}

// end ends the agent or the machine without a word.
func end(_ context.Context, _ *guest, argument string) error {
	if argument == "agent" {
		os.Exit(3) // the kernel panics
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
