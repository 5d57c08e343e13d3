package hostile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// exitProgram is the smallest program there is: it needs no library, so that it
// runs wherever it may be executed, and ends with status 0.
var exitProgram = program([]byte{
	0xb8, 60, 0, 0, 0, // mov $SYS_exit, %eax
	0x31, 0xff, // xor %edi, %edi
	0x0f, 0x05, // syscall
})

func program(code []byte) []byte {
	const base, headers = 0x400000, 64 + 56
	var file bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
			Vaddr: base, Paddr: base, Filesz: uint64(headers + len(code)), Memsz: uint64(headers + len(code)), Align: 0x1000,
		},
		code,
	} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			panic(err) // a bytes.Buffer takes everything
		}
	}
	return file.Bytes()
}
