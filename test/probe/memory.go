package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const page = 4096

// anonymous maps memory of no file.
func anonymous(size int) ([]byte, error) {
	area, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	return area, os.NewSyscallError("mmap", err)
}

// occupy MIB uses so much memory, no two pages alike, says so, and waits to be killed.
func occupy(args []string) error {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	area, err := anonymous(mib << 20)
	if err != nil {
		return err
	}
	for at := 0; at < len(area); at += page {
		binary.NativeEndian.PutUint64(area[at:], rand.Uint64())
	}
	fmt.Println("occupied")
	return unix.Pause()
}
