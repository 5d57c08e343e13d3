package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects to the path of a unix socket, or to an address such as
// "tcp:10.1.0.2:7" or "udp:[fd00::2]:7".
func dial(address string) (net.Conn, error) {
	if strings.HasPrefix(address, "/") {
		return net.Dial("unix", address)
	}
	network, address, _ := strings.Cut(address, ":")
	return net.DialTimeout(network, address, time.Minute)
}

// pour ADDRESS sends its input in pieces that are as large as one packet of a stream through the
// VMM may be.
func pour(args []string) error {
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	for piece := make([]byte, 64<<10); ; {
		n, err := io.ReadFull(os.Stdin, piece)
		if n == 0 {
			return nil
		}
		if _, err := conn.Write(piece[:n]); err != nil {
			return err
		}
		if err != nil {
			return nil
		}
	}
}

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// connect SOCKET TEXT sends a line and prints the answer.
func connect(args []string) error {
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, args[1]); err != nil {
		return err
	}
	if _, packets := conn.(*net.UDPConn); packets {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		answer := make([]byte, 64<<10)
		n, err := conn.Read(answer)
		fmt.Print(string(answer[:n]))
		return err
	}
	if err := closeWrite(conn); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	fmt.Print(string(answer))
	return err
}

// lookup NAME prints the addresses of a name, as /etc/resolv.conf says.
func lookup(args []string) error {
	addresses, err := net.LookupHost(args[0])
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}

// mtu ADDRESS prints the MTU that the kernel knows of the path there (ip(7), IP_MTU).
func mtu(args []string) error {
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) {
		value, failed := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		if err = failed; err == nil {
			fmt.Println(value)
		}
	}), err)
}

// echo PORT sends back what comes by TCP and UDP, until it is killed.
func echo(args []string) error {
	packets, err := net.ListenPacket("udp", ":"+args[0])
	if err != nil {
		return err
	}
	go func() {
		packet := make([]byte, 64<<10)
		for {
			n, from, err := packets.ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(packet[:n], from)
		}
	}()
	listener, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// pump SOCKET CONNECTIONS BYTES sends as much through each connection, reads as
// much back from a server that echoes, and counts.
func pump(args []string) error {
	connections, _ := strconv.Atoi(args[1])
	size, _ := strconv.ParseInt(args[2], 10, 64)
	var wait sync.WaitGroup
	results := make(chan error, connections)
	gate := make(chan struct{})
	var open sync.WaitGroup
	open.Add(connections)
	for range connections {
		wait.Go(func() {
			conn, err := dial(args[0])
			open.Done()
			if err != nil {
				results <- err
				return
			}
			defer conn.Close()
			<-gate // all are open at once
			go func() {
				_, _ = io.CopyN(conn, zeros{}, size)
				_ = closeWrite(conn)
			}()
			n, err := io.Copy(io.Discard, conn)
			if err == nil && n != size {
				err = fmt.Errorf("%d of %d bytes came back", n, size)
			}
			results <- err
		})
	}
	open.Wait()
	close(gate)
	wait.Wait()
	close(results)
	var errs []error
	for err := range results {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// roundtrip ADDRESS COUNT sends a byte and waits for it, so many times, and prints
// how long one took.
func roundtrip(args []string) error {
	count, _ := strconv.Atoi(args[1])
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	began, one := time.Now(), []byte{0}
	for range count {
		if _, err := conn.Write(one); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return err
		}
	}
	fmt.Println(time.Since(began) / time.Duration(count))
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
