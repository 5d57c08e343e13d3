// kernel takes the guest's kernel out of libkrunfw and writes it in the form
// that both drivers boot: an ELF file, with a PVH note for QEMU.
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
	kernel, err := kernelOf(library)
	if err != nil {
		return err
	}
	return os.WriteFile(output, wrap(kernel), 0o644)
}

// kernel is libkrunfw's.
type kernel struct {
	image []byte
	load  uint64 // physical address
	entry uint64 // physical address of the entry for 64-bit mode
}

func kernelOf(library string) (kernel, error) {
	handle, err := purego.Dlopen(library, purego.RTLD_NOW)
	if err != nil {
		return kernel{}, err
	}
	var get func(load, entry, size *uint64) unsafe.Pointer
	purego.RegisterLibFunc(&get, handle, "krunfw_get_kernel")
	var load, entry, size uint64
	start := get(&load, &entry, &size)
	if start == nil || size == 0 {
		return kernel{}, fmt.Errorf("%s carries no kernel", library)
	}
	return kernel{bytes.Clone(unsafe.Slice((*byte)(start), size)), load, entry}, nil
}

// wrap makes an ELF file of one segment to load and one note. The file's entry,
// where libkrun starts, is for 64-bit mode; the note's, where QEMU starts, is for
// 32-bit mode and is the image's first byte.
func wrap(k kernel) []byte {
	var note bytes.Buffer
	name := []byte("Xen\x00")
	for _, word := range []uint32{uint32(len(name)), 8, phys32Entry} {
		binary.Write(&note, binary.LittleEndian, word)
	}
	note.Write(name)
	binary.Write(&note, binary.LittleEndian, k.load)

	noteAt := uint64(headerSize + 2*programSize)
	header := elf.Header64{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(elf.EM_X86_64),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     k.entry,
		Phoff:     headerSize,
		Ehsize:    headerSize,
		Phentsize: programSize,
		Phnum:     2,
	}
	segments := []elf.Prog64{
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
			Off: pageSize, Vaddr: k.load, Paddr: k.load, Filesz: uint64(len(k.image)), Memsz: uint64(len(k.image)), Align: pageSize,
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
	file.Write(k.image)
	return file.Bytes()
}
