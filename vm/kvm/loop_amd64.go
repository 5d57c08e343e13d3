package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

const flagsExpected = true

// Requests and layouts of <linux/kvm.h>.
const (
	kvmGetAPIVersion    = 0xae00
	kvmCreateVM         = 0xae01
	kvmGetVCPUMmapSize  = 0xae04
	kvmCreateVCPU       = 0xae41
	kvmSetUserMemory    = 0x4020ae46
	kvmRun              = 0xae80
	kvmSetRegs          = 0x4090ae82
	kvmGetSregs         = 0x8138ae83
	kvmSetSregs         = 0x4138ae84
	kvmAPIVersion       = 12
	kvmExitHLT          = 5
	exitReasonOffset    = 8
	guestMemory         = 64 << 10
	pml4, pdpt, pd      = 0x1000, 0x2000, 0x3000
	codeAt              = 0x4000
	loopCount           = 100_000
	cr0PE, cr0PG        = 1 << 0, 1 << 31
	cr4PAE              = 1 << 5
	eferLME, eferLMA    = 1 << 8, 1 << 10
	pagePresent, pageRW = 1 << 0, 1 << 1
	page2M              = 1 << 7
)

type regs struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8, r9, r10, r11, r12, r13, r14, r15   uint64
	rip, rflags                            uint64
}

type segment struct {
	base                           uint64
	limit                          uint32
	selector                       uint16
	typ, present, dpl, db, s, l, g uint8
	avl, unusable, padding         uint8
}

type table struct {
	base    uint64
	limit   uint16
	padding [3]uint16
}

type sregs struct {
	cs, ds, es, fs, gs, ss, tr, ldt    segment
	gdt, idt                           table
	cr0, cr2, cr3, cr4, cr8, efer, apb uint64
	interrupts                         [4]uint64
}

type memoryRegion struct {
	slot, flags                uint32
	guest, size, userspaceAddr uint64
}

// program counts rcx down in 64-bit code and halts:
//
//	dec %rcx; jnz .-3; hlt
var program = []byte{0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4}

// runLoop runs the program in a guest in long mode, again and again for loopPatience, and three times at
// least, if it takes longer than loopBudget, and returns the shortest time, without that in which this
// thread waited for a processor.
func runLoop() (time.Duration, error) {
	queue, leave := joinQueue()
	defer leave()
	dev, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	kvm := int(dev.Fd())
	version, err := ask(kvm, kvmGetAPIVersion)
	if err != nil {
		return 0, fmt.Errorf("asking for its API version: %w", err)
	}
	if version != kvmAPIVersion {
		return 0, fmt.Errorf("its API version is %d, want %d", version, kvmAPIVersion)
	}
	runSize, err := ask(kvm, kvmGetVCPUMmapSize)
	if err != nil {
		return 0, err
	}
	// A VM's end waits for the host's kernel, tens of milliseconds, and nobody has to wait for that.
	var ends []func()
	defer func() {
		go func() {
			for _, end := range slices.Backward(ends) {
				end()
			}
		}()
	}()
	vm, err := ask(kvm, kvmCreateVM)
	if err != nil {
		return 0, fmt.Errorf("creating a VM: %w", err)
	}
	ends = append(ends, func() { unix.Close(vm) })
	memory, err := guestImage(vm)
	if err != nil {
		return 0, err
	}
	ends = append(ends, func() { _ = unix.Munmap(memory) })
	vcpu, err := ask(vm, kvmCreateVCPU)
	if err != nil {
		return 0, fmt.Errorf("creating a virtual CPU: %w", err)
	}
	ends = append(ends, func() { unix.Close(vcpu) })
	run, err := unix.Mmap(vcpu, 0, runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	ends = append(ends, func() { _ = unix.Munmap(run) })

	shortest := time.Hour
	began := time.Now()
	for n := 0; shortest > loopBudget && (n < 3 || time.Since(began) < loopPatience); n++ {
		if err := reset(vcpu); err != nil {
			return 0, err
		}
		start, waited := time.Now(), queue.waited()
		for {
			_, err = ask(vcpu, kvmRun)
			if !errors.Is(err, unix.EAGAIN) {
				break
			}
		}
		if err != nil {
			return 0, fmt.Errorf("running a guest: %w", err)
		}
		if reason := binary.NativeEndian.Uint32(run[exitReasonOffset:]); reason != kvmExitHLT {
			return 0, fmt.Errorf("a trivial guest did not run (exit reason %d)", reason)
		}
		shortest = min(shortest, time.Since(start)-(queue.waited()-waited))
	}
	return shortest, nil
}

// guestImage maps the guest's memory: page tables that identity-map the first
// 2 MiB, and the program.
func guestImage(vm int) ([]byte, error) {
	memory, err := unix.Mmap(-1, 0, guestMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(memory[pml4:], pdpt|pagePresent|pageRW)
	binary.LittleEndian.PutUint64(memory[pdpt:], pd|pagePresent|pageRW)
	binary.LittleEndian.PutUint64(memory[pd:], pagePresent|pageRW|page2M)
	copy(memory[codeAt:], program)
	region := memoryRegion{size: guestMemory, userspaceAddr: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if err := rawcall.Ioctl(vm, kvmSetUserMemory, unsafe.Pointer(&region)); err != nil {
		unix.Munmap(memory)
		return nil, fmt.Errorf("giving memory to a guest: %w", err)
	}
	return memory, nil
}

// reset puts the virtual CPU into long mode at the program's start.
func reset(vcpu int) error {
	var s sregs
	if err := rawcall.Ioctl(vcpu, kvmGetSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	code := segment{limit: 0xffffffff, selector: 8, typ: 11, present: 1, s: 1, l: 1, g: 1}
	data := segment{limit: 0xffffffff, selector: 16, typ: 3, present: 1, s: 1, db: 1, g: 1}
	s.cs, s.ds, s.es, s.fs, s.gs, s.ss = code, data, data, data, data, data
	s.cr3, s.cr4, s.cr0, s.efer = pml4, cr4PAE, cr0PE|cr0PG, eferLME|eferLMA
	if err := rawcall.Ioctl(vcpu, kvmSetSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	r := regs{rip: codeAt, rcx: loopCount, rflags: 2}
	return rawcall.Ioctl(vcpu, kvmSetRegs, unsafe.Pointer(&r))
}

// ask makes a request whose argument is 0, of which a signal interrupts some: kvmRun, and kvmCreateVM
// while it takes all locks of this process's memory (mm_take_all_locks in the kernel).
func ask(fd int, request uint) (int, error) {
	return rawcall.Retry(func() (int, error) { return unix.IoctlRetInt(fd, request) })
}
