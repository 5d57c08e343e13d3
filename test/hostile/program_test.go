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

// userProgram ends with the low byte of its effective user id.
var userProgram = program([]byte{
	0xb8, 107, 0, 0, 0, // mov $SYS_geteuid, %eax
	0x0f, 0x05, // syscall
	0x89, 0xc7, // mov %eax, %edi
	0xb8, 60, 0, 0, 0, // mov $SYS_exit, %eax
	0x0f, 0x05, // syscall
})

// threadsProgram starts 4,000 threads that wait for ever, and then ends with status 0, or
// at once with the errno of the first that could not be started.
var threadsProgram = program([]byte{
	0x41, 0xbc, 0xa0, 0x0f, 0, 0, // mov $4000, %r12d
	// start:
	0xb8, 56, 0, 0, 0, // mov $SYS_clone, %eax
	0xbf, 0x00, 0x0f, 0x05, 0x00, // mov $(CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM), %edi
	0x48, 0x89, 0xe6, // mov %rsp, %rsi: a thread uses no stack
	0x31, 0xd2, // xor %edx, %edx
	0x4d, 0x31, 0xd2, // xor %r10, %r10
	0x4d, 0x31, 0xc0, // xor %r8, %r8
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test %eax, %eax
	0x74, 22, // jz thread
	0x78, 9, // js refused
	0x41, 0xff, 0xcc, // dec %r12d
	0x75, 222, // jnz start
	0x31, 0xff, // xor %edi, %edi
	0xeb, 4, // jmp end
	// refused:
	0xf7, 0xd8, // neg %eax
	0x89, 0xc7, // mov %eax, %edi
	// end:
	0xb8, 231, 0, 0, 0, // mov $SYS_exit_group, %eax
	0x0f, 0x05, // syscall
	// thread:
	0xb8, 34, 0, 0, 0, // mov $SYS_pause, %eax
	0x0f, 0x05, // syscall
	0xeb, 247, // jmp thread
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
