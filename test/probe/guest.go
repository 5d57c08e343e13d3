package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// abilities are what a program can do with the kernel of the guest (docs/guest.md). Each
// does it and looks at what comes of it.
var abilities = map[string]func(args []string) error{
	"landlock": landlock, "seccomp": seccomp, "io_uring": ioUring, "userfaultfd": userfaultfd, "bpf": bpf, "perf": perf,
	"fanotify": fanotify, "mptcp": mptcp, "bbr": bbr, "ktls": ktls, "sctp": sctp, "af_alg": afAlg, "ia32": ia32,
	"fuse": fuseFile, "ipset": ipset, "ipvs": ipvs, "verity": verity, "mount": mountFile, "quota": quota,
}

// can ABILITY ... does one after the other and tells which failed.
func can(args []string) error {
	var errs []error
	for _, name := range args {
		name, arg, _ := strings.Cut(name, "=")
		if abilities[name] == nil {
			return fmt.Errorf("unknown ability %s", name)
		}
		// What a thread is confined to goes with the thread.
		failed := make(chan error)
		go func() {
			runtime.LockOSThread()
			failed <- abilities[name](strings.Fields(arg))
		}()
		if err := <-failed; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(errs) > 0 {
		// Not the errno's name alone, which main prints.
		return errors.New(errors.Join(errs...).Error())
	}
	return nil
}

// temporary makes a directory with an empty file.
func temporary() (file string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return "", nil, err
	}
	file = filepath.Join(dir, "file")
	return file, func() { _ = os.RemoveAll(dir) }, os.WriteFile(file, nil, 0o600)
}

// raw is a system call that x/sys/unix has no function for.
func raw(name string, number, a, b, c uintptr) (uintptr, error) {
	result, _, errno := unix.Syscall(number, a, b, c)
	if errno != 0 {
		return 0, os.NewSyscallError(name, errno)
	}
	return result, nil
}

// landlock forbids this thread to read files.
func landlock([]string) error {
	file, remove, err := temporary()
	if err != nil {
		return err
	}
	defer remove()
	rules := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_READ_FILE}
	fd, err := raw("landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), unsafe.Sizeof(rules), 0)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, err := raw("landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); err != nil {
		return err
	}
	if _, err := unix.Open(file, unix.O_RDONLY, 0); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("a file that may not be read opens: %w", err)
	}
	return nil
}

// seccomp has a filter answer one call of this thread.
func seccomp([]string) error {
	const answer = unix.ENOTTY
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_GETPPID},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x00050000 | uint32(answer)}, // SECCOMP_RET_ERRNO
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000},                  // SECCOMP_RET_ALLOW
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return err
	}
	if _, err := raw("getppid", unix.SYS_GETPPID, 0, 0, 0); !errors.Is(err, answer) {
		return fmt.Errorf("a call that the filter answers: %w", err)
	}
	return nil
}

// ioUring makes a ring and asks it what it can do.
func ioUring([]string) error {
	var parameters [120]byte // struct io_uring_params
	fd, err := raw("io_uring_setup", unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&parameters)), 0)
	if err != nil {
		return err
	}
	defer unix.Close(int(fd))
	const registerProbe, operations = 8, 32
	var known [16 + 8*operations]byte // struct io_uring_probe
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, registerProbe, uintptr(unsafe.Pointer(&known)), operations, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_register", errno)
	}
	if known[0] < operations {
		return fmt.Errorf("the last operation is %d", known[0])
	}
	return nil
}

// userfaultfd shakes hands about faults of user mode.
func userfaultfd([]string) error {
	const userModeOnly, version, handshake = 1, 0xaa, 0xc018aa3f // UFFD_API, UFFDIO_API
	fd, err := raw("userfaultfd", unix.SYS_USERFAULTFD, unix.O_CLOEXEC|userModeOnly, 0, 0)
	if err != nil {
		return err
	}
	defer unix.Close(int(fd))
	api := [3]uint64{version} // struct uffdio_api
	_, err = raw("UFFDIO_API", unix.SYS_IOCTL, fd, handshake, uintptr(unsafe.Pointer(&api)))
	return err
}

// bpf loads a program and runs it.
func bpf([]string) error {
	const answer = 42
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer program.Close()
	got, _, err := program.Test(make([]byte, 64))
	if err == nil && got != answer {
		return fmt.Errorf("it returned %d", got)
	}
	return err
}

// perf counts the time that this thread runs.
func perf([]string) error {
	attributes := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
	attributes.Size = uint32(unsafe.Sizeof(attributes))
	fd, err := unix.PerfEventOpen(&attributes, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("perf_event_open", err)
	}
	defer unix.Close(fd)
	var count [8]byte
	if _, err := unix.Read(fd, count[:]); err != nil {
		return err
	}
	if binary.NativeEndian.Uint64(count[:]) == 0 {
		return errors.New("no time has passed")
	}
	return nil
}

// fanotify is told of a file that was written.
func fanotify([]string) error {
	file, remove, err := temporary()
	if err != nil {
		return err
	}
	defer remove()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	if err != nil {
		return os.NewSyscallError("fanotify_init", err)
	}
	defer unix.Close(fd)
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_CLOSE_WRITE, unix.AT_FDCWD, file); err != nil {
		return os.NewSyscallError("fanotify_mark", err)
	}
	if err := os.WriteFile(file, []byte("written"), 0o600); err != nil {
		return err
	}
	event := make([]byte, 4096)
	n, err := unix.Read(fd, event)
	if err == nil && n < int(unsafe.Sizeof(unix.FanotifyEventMetadata{})) {
		return fmt.Errorf("an event of %d bytes", n)
	}
	return err
}

// afAlg has the kernel compute a sum.
func afAlg([]string) error {
	algorithm, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(algorithm, &unix.SockaddrALG{Type: "hash", Name: "sha256"}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	fd, err := raw("accept", unix.SYS_ACCEPT, uintptr(algorithm), 0, 0)
	if err != nil {
		return err
	}
	want := sha256.Sum256([]byte("abc"))
	if _, err := unix.Write(int(fd), []byte("abc")); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := unix.Read(int(fd), got); err != nil {
		return err
	}
	if !bytes.Equal(got, want[:]) {
		return fmt.Errorf("the sum is %x", got)
	}
	return nil
}

// ia32 runs a program for 32-bit processors, whose exit code is its user's number by the
// call that has 16 bits for it, and 42 for root; one less if the time that 32 bits hold is
// refused.
func ia32([]string) error {
	const base, headers = 0x08048000, 52 + 32
	code := []byte{
		0xb8, 24, 0, 0, 0, // mov eax, 24 (getuid)
		0xcd, 0x80, // int 0x80
		0x89, 0xc6, // mov esi, eax
		0xb8, 13, 0, 0, 0, // mov eax, 13 (time)
		0x31, 0xdb, // xor ebx, ebx
		0xcd, 0x80,
		0xc1, 0xf8, 31, // sar eax, 31: -1 for an error
		0x8d, 0x5c, 0x30, 42, // lea ebx, [eax+esi+42]
		0xb8, 1, 0, 0, 0, // mov eax, 1 (exit)
		0xcd, 0x80,
	}
	var program bytes.Buffer
	size := uint32(headers + len(code))
	for _, part := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 1, 1, 1},
		uint16(2), uint16(3), uint32(1), // an executable file for the 386
		uint32(base + headers), uint32(52), uint32(0), uint32(0), uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(0), uint32(base), uint32(base), size, size, uint32(5), uint32(0x1000), // loaded as it is
		code,
	} {
		if err := binary.Write(&program, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	file, remove, err := temporary()
	if err != nil {
		return err
	}
	defer remove()
	if err := errors.Join(os.WriteFile(file, program.Bytes(), 0), os.Chmod(file, 0o700)); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := exec.Command(file).Run(); !errors.As(err, &exit) || exit.ExitCode() != 42 {
		return fmt.Errorf("it ended otherwise than with 42: %w", err)
	}
	return nil
}

// fuseFile mounts a file system of one file and reads that.
func fuseFile([]string) error {
	file, remove, err := temporary()
	if err != nil {
		return err
	}
	defer remove()
	dir := filepath.Dir(file)
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("served", root.NewPersistentInode(ctx, &fs.MemRegularFile{Data: []byte("content")}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
		},
	})
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(dir, "served"))
	if err == nil && string(got) != "content" {
		err = fmt.Errorf("it reads %q", got)
	}
	return errors.Join(err, server.Unmount())
}

// mountFile TYPE FILE DIRECTORY mounts it as it is: mount(8) would put a loop device between.
func mountFile(args []string) error {
	return unix.Mount(args[1], args[2], args[0], unix.MS_RDONLY, "")
}

// quota DIRECTORY lets the user 1000 have 64 KiB in its file system.
func quota(args []string) error {
	const setQuota, user, blocks = 0x800008 << 8, 1000, 1 // Q_SETQUOTA of USRQUOTA, QIF_BLIMITS
	var limits [72]byte                                   // struct if_dqblk (include/uapi/linux/quota.h)
	binary.NativeEndian.PutUint64(limits[:], 64)          // hard, in KiB
	binary.NativeEndian.PutUint32(limits[64:], blocks)
	dir, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer dir.Close()
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), setQuota, user, uintptr(unsafe.Pointer(&limits)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("quotactl_fd", errno)
	}
	return nil
}
