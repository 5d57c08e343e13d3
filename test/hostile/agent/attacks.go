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
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// attacks are the words about what the agent does by itself, from a moment after the
// container has started. Those that do something again and again never end.
var attacks = map[string]func(context.Context, *guest, string) error{
	"event":   sendEvents,
	"noise":   noise,
	"deaf":    deaf,
	"mux":     badMux,
	"ttrpc":   badTTRPC,
	"headers": halfHeaders,
	"names":   unknownNames,
	"sockets": fillSockets,
	"console": floodConsole,
	"end":     end,
}

// noise sends frames of a kind that there is not as fast as they go, and reads nothing; with
// the argument "read" it reads.
func noise(_ context.Context, g *guest, argument string) error {
	if argument != "read" {
		g.wire.stopReading()
	}
	return g.repeat(bytes.Repeat(muxFrame(mux.FrameCredit+1, 0, 0, nil), 1000))
}

// deaf reads nothing any more.
func deaf(_ context.Context, g *guest, _ string) error {
	g.wire.stopReading()
	return nil
}

// Streams of the guest, which are even, that it has not reached by itself; and the first of
// the host's, which carries ttrpc.
const (
	farStream   = 1 << 20
	firstStream = 1
)

// badMux breaks the protocol of streams (vm/mux), in the way of the argument.
func badMux(_ context.Context, g *guest, argument string) error {
	switch argument {
	case "kind":
		return g.wire.put(bytes.Repeat([]byte{0xff}, mux.FrameSize))
	case "overrun": // sends beyond the window
		return g.repeat(muxFrame(mux.FrameData, firstStream, 32<<10, make([]byte, 32<<10)))
	case "long": // a frame longer than any
		return g.repeat(muxFrame(mux.FrameData, firstStream, 1<<24-1, make([]byte, mib)))
	case "credit": // gives more credit than a number can hold
		return g.repeat(muxFrame(mux.FrameCredit, firstStream, 1<<24-1, nil))
	case "unknown": // sends on streams that are not open
		return g.repeat(muxFrame(mux.FrameData, farStream, 16, make([]byte, 16)))
	case "unopened": // opens streams faster than they are accepted
		for id := uint32(farStream); ; id += 2 {
			if err := g.wire.put(muxFrame(mux.FrameOpen, id, 0, nil)); err != nil {
				return err
			}
		}
	case "churn": // opens streams and closes them at once
		for id := uint32(farStream); ; id += 2 {
			frames := append(muxFrame(mux.FrameOpen, id, 0, nil), muxFrame(mux.FrameClose, id, 1, nil)...)
			if err := g.wire.put(frames); err != nil {
				return err
			}
		}
	case "reset": // ends the stream of ttrpc
		return g.wire.put(muxFrame(mux.FrameClose, firstStream, 1, nil))
	case "half": // begins a frame and does not end it
		return g.wire.put(muxFrame(mux.FrameData, firstStream, 1000, []byte("half")))
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
		header := &api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: sockets[0].Tag, Peer: &api.Peer{}}}}
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
