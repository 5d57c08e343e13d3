package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"

	"golang.org/x/sys/unix"
)

const page = 4096

// occupy MIB uses so much memory, no two pages alike, says so, and waits to be killed.
func occupy(args []string) error {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	area, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	for at := 0; at < len(area); at += page {
		binary.NativeEndian.PutUint64(area[at:], rand.Uint64())
	}
	fmt.Println("occupied")
	return unix.Pause()
}
