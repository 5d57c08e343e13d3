package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/acl"
)

// as UID GID[,GROUP…] COMMAND… becomes a user without capabilities, with supplementary
// groups, and then the command.
func as(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var groups []int
	for _, text := range strings.Split(args[1], ",") {
		group, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		groups = append(groups, group)
	}
	path, err := exec.LookPath(args[2])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := syscall.Setgroups(groups[1:]); err != nil {
		return err
	}
	if err := syscall.Setresgid(groups[0], groups[0], groups[0]); err != nil {
		return err
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return err
	}
	return syscall.Exec(path, args[2:], os.Environ())
}

// acl FILE access|default [LIST] sets an access control list, in the form of package acl,
// or prints the one that is there.
func aclOf(args []string) error {
	name := map[string]string{"access": acl.Access, "default": acl.Default}[args[1]]
	if len(args) == 3 {
		value, err := acl.Encode(args[2])
		if err != nil {
			return err
		}
		return unix.Setxattr(args[0], name, value, 0)
	}
	value := make([]byte, 1<<16)
	n, err := unix.Getxattr(args[0], name, value)
	if err != nil {
		return err
	}
	list, err := acl.Decode(value[:n])
	fmt.Println(list)
	return err
}
