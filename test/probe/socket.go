package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

// greet SOCKET TEXT listens, and answers each connection with a text, until it is killed.
func greet(args []string) error {
	_ = os.Remove(args[0])
	listener, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(conn, args[1])
		_ = closeWrite(conn)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
}
