// kernel takes the guest's kernel out of libkrunfw and writes it in the form
// that QEMU boots: an ELF file with a PVH note.
//
//	kernel LIBKRUNFW OUTPUT
//
// libkrunfw is a shared library that carries a Linux kernel as one flat image,
// to be put at one physical address and entered there. QEMU enters a kernel
// whose ELF file has a Xen note with the physical entry address directly, in
// 32-bit mode (XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h), without
// firmware.
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"github.com/ebitengine/purego"
)

const (
	phys32Entry = 0x12 // XEN_ELFNOTE_PHYS32_ENTRY
	headerSize  = 64
	programSize = 56
	pageSize    = 0x1000
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: kernel LIBKRUNFW OUTPUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		os.Exit(1)
	}
}

func run(library, output string) error {
	image, load, err := kernelOf(library)
	if err != nil {
		return err
	}
	return os.WriteFile(output, wrap(image, load), 0o644)
}

// kernelOf is the image and its physical address.
func kernelOf(library string) ([]byte, uint64, error) {
	handle, err := purego.Dlopen(library, purego.RTLD_NOW)
	if err != nil {
		return nil, 0, err
	}
	var get func(load, entry, size *uint64) unsafe.Pointer
	purego.RegisterLibFunc(&get, handle, "krunfw_get_kernel")
	var load, entry, size uint64
	start := get(&load, &entry, &size)
	if start == nil || size == 0 {
		return nil, 0, fmt.Errorf("%s carries no kernel", library)
	}
	return bytes.Clone(unsafe.Slice((*byte)(start), size)), load, nil
}

// wrap makes an ELF file of one segment to load and one note. The entry of the
// note is the image's first byte; libkrunfw's own entry is for 64-bit mode.
func wrap(image []byte, load uint64) []byte {
	var note bytes.Buffer
	name := []byte("Xen\x00")
	for _, word := range []uint32{uint32(len(name)), 8, phys32Entry} {
		binary.Write(&note, binary.LittleEndian, word)
	}
	note.Write(name)
	binary.Write(&note, binary.LittleEndian, load)

	noteAt := uint64(headerSize + 2*programSize)
	header := elf.Header64{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(elf.EM_X86_64),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     load,
		Phoff:     headerSize,
		Ehsize:    headerSize,
		Phentsize: programSize,
		Phnum:     2,
	}
	segments := []elf.Prog64{
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
			Off: pageSize, Vaddr: load, Paddr: load, Filesz: uint64(len(image)), Memsz: uint64(len(image)), Align: pageSize,
		},
		{
			Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R),
			Off: noteAt, Vaddr: noteAt, Paddr: noteAt, Filesz: uint64(note.Len()), Memsz: uint64(note.Len()), Align: 4,
		},
	}
	var file bytes.Buffer
	binary.Write(&file, binary.LittleEndian, header)
	binary.Write(&file, binary.LittleEndian, segments)
	file.Write(note.Bytes())
	file.Write(make([]byte, pageSize-file.Len()))
	file.Write(image)
	return file.Bytes()
}
