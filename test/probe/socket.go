package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

func init() { commands["as"] = as } // which uses the others

// as UID GID[,GROUP…] COMMAND… becomes another user and does what follows.
func as(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var groups []int
	for _, text := range strings.Split(args[1], ",") {
		gid, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		groups = append(groups, gid)
	}
	err = errors.Join(syscall.Setgroups(groups[1:]), syscall.Setresgid(groups[0], groups[0], groups[0]), syscall.Setresuid(uid, uid, uid))
	if err != nil {
		return err
	}
	return commands[args[2]](args[3:])
}

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
