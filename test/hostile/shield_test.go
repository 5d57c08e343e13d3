package hostile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield"
)

func TestShieldIntruder(t *testing.T) { intrude(t, shielding) }

// noDirectory is that the process gets files and no directory, also to follow a file.
const noDirectory measure = "no directory"

// shieldAttempts are tried in the place of msb-shield. It keeps CAP_SYS_ADMIN, so that of
// the two measures that stop a VMM from mounting the filter alone is left.
func shieldAttempts() []attempt {
	return append(elsewhere(map[string][]measure{
		"open a host file by its path":                      {ownRoot},
		"the same by /proc/1/root":                          {ownRoot, fewCapabilities},
		"read a process's memory through procfs":            {ownRoot},
		"walk from /proc/self/fd to the rest of procfs":     {ownRoot},
		"connect to a socket of the host by its path":       {ownRoot},
		"read another sandbox's staged file":                {ownRoot},
		"write to a read-only file":                         {readOnlyShare},
		"mount":                                             {filter},
		"clone a mount":                                     {filter},
		"join a namespace":                                  {filter},
		"make a namespace":                                  {filter},
		"open a netlink socket":                             {filter},
		"change the host name":                              {filter},
		"execute a program of a share":                      {filter},
		"take an instance of inotify from the host's root":  {filter},
		"take a group of fanotify from the host's root":     {filter},
		"take bytes of message queues from the host's root": {filter},
		"use a keyring":                                     {filter},
		"take requests of Linux' AIO from the host":         {filter},
		"hold up who opens a file":                          {filter},
		"load a BPF program":                                {filter},
		"chroot":                                            {filter, fewCapabilities},
		"open a file by its handle":                         {filter, fewCapabilities},
		"trace a process of the host":                       {filter, ownNamespaces, fewCapabilities},
		"read a process's memory":                           {filter, ownNamespaces, fewCapabilities},
		"signal a process of the host":                      {ownNamespaces},
		"attach the host's shared memory":                   {ownNamespaces},
		"connect to an abstract socket of the host":         {ownNamespaces},
		"connect to a port of the host":                     {filter, ownNamespaces},
		"raise a resource limit":                            {lowLimits},
	}),
		attempt{"leave by .. from a followed file's directory", []measure{noDirectory}, func(t Targets) error {
			return inDescriptors("../../../../../../../.."+t.Secret, unix.O_RDONLY)
		}},
		attempt{"make a file of the host by ..", []measure{noDirectory}, func(t Targets) error {
			return inDescriptors("../../../../../../../.."+t.Secret+".made", unix.O_WRONLY|unix.O_CREAT)
		}},
		attempt{"read what is beside a mounted file", []measure{noDirectory}, func(Targets) error {
			return inDescriptors("sibling", unix.O_RDONLY)
		}},
		attempt{"write what is beside a mounted file", []measure{noDirectory}, func(Targets) error {
			return inDescriptors("sibling", unix.O_WRONLY)
		}},
		attempt{"link a mounted file beside it", []measure{noDirectory, filter}, func(t Targets) error {
			last := error(unix.ENOENT)
			for fd := range 64 {
				if last = unix.Linkat(unix.AT_FDCWD, t.Mounted, fd, "link", unix.AT_SYMLINK_FOLLOW); last == nil {
					break
				}
			}
			return last
		}},
		attempt{"change the mode of a mounted file", []measure{filter}, func(t Targets) error { return os.Chmod(t.Mounted, 0o4777) }},
		attempt{"change the owner of a mounted file", []measure{filter, fewCapabilities}, func(t Targets) error { return os.Chown(t.Mounted, 1, 1) }},
		attempt{"set the times of a mounted file", []measure{filter}, func(t Targets) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, t.Mounted, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
		}},
		attempt{"set an attribute of a mounted file", []measure{filter}, func(t Targets) error {
			return unix.Setxattr(t.Mounted, "trusted.msb", []byte("x"), 0)
		}},
		attempt{"freeze the file system of a mounted file", []measure{filter}, freeze},
		attempt{"unmount", []measure{filter}, func(t Targets) error { return unix.Unmount("/proc/self/fd", unix.MNT_DETACH) }}) // the last that uses it
}

// freeze stops every write to the file system that a mounted file is on. Here that is a
// tmpfs, which is asked and has nothing to freeze.
func freeze(t Targets) error {
	const fiFreeze = 0xc0045877 // FIFREEZE of linux/fs.h
	file, err := os.Open(t.Mounted)
	if err != nil {
		return err
	}
	defer file.Close()
	err = unix.IoctlSetInt(int(file.Fd()), fiFreeze, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// fakeShield keeps what a shield is given: package shield's hands the file to its process
// and keeps the directory. What it makes of each is entry, a path of the host: a mount that
// is attached nowhere, as a read-only file has, is bound by newer kernels only.
type fakeShield struct {
	entry       string
	files, dirs []*os.File
}

func (s *fakeShield) Add(_ string, file, dir *os.File, _ string) (*os.File, error) {
	s.files = append(s.files, duplicate(file))
	if dir != nil {
		s.dirs = append(s.dirs, duplicate(dir))
	}
	return os.OpenFile(s.entry, unix.O_PATH|unix.O_CLOEXEC, 0)
}

func (s *fakeShield) AddFixed(name string, file *os.File) (*os.File, error) {
	return s.Add(name, file, nil, "")
}

func (*fakeShield) Remove(string) error { return nil }

func (s *fakeShield) close() {
	for _, file := range append(s.files, s.dirs...) {
		file.Close()
	}
}

func duplicate(file *os.File) *os.File {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return os.NewFile(uintptr(fd), file.Name())
}

// stageShield mounts files read-write, followed, and followed read-only, and gives the
// process what msb-shield has then: its sockets, and the files.
func stageShield(t *testing.T, without map[measure]bool) scene {
	t.Helper()
	dir := shortDir(t)
	secret := made(t, filepath.Join(dir, "host", "secret"), "secret", 0o600)
	conf := filepath.Join(dir, "conf")
	if err := errors.Join(os.Mkdir(conf, 0o755), unix.Mount("msb", conf, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(conf, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	made(t, filepath.Join(conf, "sibling"), "secret", 0o600)
	given := &fakeShield{entry: filepath.Join(conf, "sibling")}
	t.Cleanup(given.close)
	trees, other := openWith(t, filepath.Join(dir, "mine"), given), open(t, filepath.Join(dir, "other"))
	add(t, trees, made(t, filepath.Join(conf, "rw"), "rw", 0o600), share.Attributes{Shield: true})
	add(t, trees, made(t, filepath.Join(conf, "follow"), "follow", 0o600), share.Attributes{Shield: true, Follow: true})
	add(t, trees, made(t, filepath.Join(conf, "ro"), "ro", 0o600), share.Attributes{Shield: true, Follow: true, ReadOnly: !without[readOnlyShare]})
	add(t, trees, made(t, filepath.Join(conf, "program"), string(exitProgram), 0o755), share.Attributes{Shield: true})
	foreign := add(t, other, made(t, filepath.Join(dir, "foreign"), "x", 0o600), share.Attributes{})

	empty := filepath.Join(dir, "jail")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	s := scene{spec: shield.Jail(self(t), empty), targets: attackable(t, dir, secret)}
	for range 3 { // in the places of its two sockets and of the device
		s.spec.Files = append(s.spec.Files, socket(t))
	}
	first := 3 + len(s.spec.Files)
	s.spec.Files = append(s.spec.Files, given.files...)
	s.targets.Mounted = fmt.Sprintf("/proc/self/fd/%d", first)
	s.targets.Given = s.targets.Mounted
	s.targets.ReadOnly = fmt.Sprintf("/proc/self/fd/%d", first+2)
	s.targets.Executable = fmt.Sprintf("/proc/self/fd/%d", first+3)
	s.targets.Other = filepath.Join(dir, "other", "files", foreign.Tag, "foreign")
	s.targets.Writable = "/"
	if without[ownRoot] {
		s.targets.Writable = conf
	}
	if without[noDirectory] {
		s.spec.Files = append(s.spec.Files, given.dirs...)
	}
	s.switchOffCommon(t, without)
	return s
}

func socket(t *testing.T) *os.File {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "socket")
	t.Cleanup(func() { file.Close(); unix.Close(fds[1]) })
	return file
}
