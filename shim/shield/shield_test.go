package shield

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// program is msb-shield, built once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "test-shield-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "msb-shield")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/msb-shield")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// start runs a shield and checks at the end that nothing of it is left.
func start(t *testing.T) *Shield {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	if err := unix.Mount("msb", parent, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", parent, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "shield")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	opened := jail.OpenProgram(path)
	defer opened.Close()
	s, err := Start(opened, dir, vm.NewConsole(func(line string) { t.Log(line) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), unix.Unmount(parent, 0)); err != nil {
			t.Error(err)
		}
		if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), parent) {
			t.Error("mounts are left")
		}
	})
	return s
}

// The process has its program's name, by which it is counted.
func TestName(t *testing.T) {
	s := start(t)
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.process.Pid())); string(name) != "msb-shield\n" || err != nil {
		t.Errorf("it is called %q, %v", name, err)
	}
}

// shielded is a file of the host and its shielded one.
type shielded struct {
	t          *testing.T
	host, path string
}

func add(t *testing.T, s *Shield, name string, follow bool) shielded {
	t.Helper()
	dir := t.TempDir()
	f := shielded{t: t, host: filepath.Join(dir, "file")}
	if err := os.WriteFile(f.host, []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	pin := open(t, f.host, unix.O_PATH)
	var parent *os.File
	if follow {
		parent = open(t, dir, unix.O_PATH)
	}
	entry, err := s.Add(name, pin, parent, "file")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { entry.Close() })
	f.path = fmt.Sprintf("/proc/self/fd/%d", entry.Fd())
	return f
}

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func (f shielded) stat() (guest, host unix.Stat_t) {
	f.t.Helper()
	if err := errors.Join(unix.Stat(f.path, &guest), unix.Stat(f.host, &host)); err != nil {
		f.t.Fatal(err)
	}
	return guest, host
}

// The data is the host's, in both directions.
func TestData(t *testing.T) {
	for name, follow := range map[string]bool{"pinned": false, "follow": true} {
		t.Run(name, func(t *testing.T) {
			f := add(t, start(t), "a", follow)
			if got, err := os.ReadFile(f.path); string(got) != "content" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			if err := os.WriteFile(f.path, []byte("written"), 0); err != nil {
				t.Error(err)
			}
			if got, _ := os.ReadFile(f.host); string(got) != "written" {
				t.Errorf("the host has %q", got)
			}
			if err := os.WriteFile(f.host, []byte("of the host, longer"), 0); err != nil {
				t.Error(err)
			}
			if got, _ := os.ReadFile(f.path); string(got) != "of the host, longer" {
				t.Errorf("then %q", got)
			}
			file := open(t, f.path, os.O_RDWR)
			data, err := unix.Mmap(int(file.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			copy(data, "MAPPED")
			if err := errors.Join(unix.Msync(data, unix.MS_SYNC), unix.Munmap(data)); err != nil {
				t.Error(err)
			}
			if got, _ := os.ReadFile(f.host); !bytes.HasPrefix(got, []byte("MAPPED")) {
				t.Errorf("after msync the host has %q", got)
			}
		})
	}
}

// FM-55: mode, owner and times are the guest's own.
func TestMetadataIsKept(t *testing.T) {
	f := add(t, start(t), "a", false)
	_, before := f.stat()
	past := time.Unix(1_000_000_000, 0)
	for _, step := range []error{
		os.Chmod(f.path, 0o777|os.ModeSetuid), os.Chown(f.path, 1234, 5678), os.Chtimes(f.path, past, past),
	} {
		if step != nil {
			t.Error(step)
		}
	}
	guest, host := f.stat()
	if guest.Uid != 1234 || guest.Gid != 5678 || guest.Mtim.Sec != past.Unix() || guest.Atim.Sec != past.Unix() {
		t.Errorf("the guest sees %+v", guest)
	}
	if host != before {
		t.Errorf("the host's inode was %+v and is %+v", before, host)
	}
	if err := os.Chmod(f.path, 0o600|os.ModeSetuid); err != nil {
		t.Error(err)
	}
	if guest, _ := f.stat(); guest.Mode&permissions != 0o4600 {
		t.Errorf("mode %o", guest.Mode)
	}
	// A time set by hand holds until the file is written.
	if err := os.WriteFile(f.path, []byte("new"), 0); err != nil {
		t.Error(err)
	}
	if guest, host := f.stat(); guest.Mtim != host.Mtim {
		t.Errorf("after a write the guest's mtime is %v, the host's %v", guest.Mtim, host.Mtim)
	}
	if guest, _ := f.stat(); guest.Mode&permissions != 0o600 && guest.Mode&permissions != 0o4600 {
		t.Errorf("mode %o after a write", guest.Mode)
	}
}

const permissions = 0o7777

// Set-id bits and file capabilities are of the content for which they were set: a
// write takes them away, also one through a descriptor opened before, and at once.
func TestPrivilegeEndsWithTheContent(t *testing.T) {
	f := add(t, start(t), "a", false)
	file := open(t, f.path, os.O_RDWR)
	capability := append([]byte{1, 0, 0, 2}, make([]byte, 16)...) // VFS_CAP_REVISION_2
	privileged := func() bool {
		guest, _ := f.stat()
		n, _ := unix.Getxattr(f.path, "security.capability", nil)
		return guest.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 || n > 0
	}
	write := func() error { return os.WriteFile(f.path, []byte("another"), 0) }
	for name, change := range map[string]func() error{
		"write": write,
		"write through an open descriptor": func() error {
			_, err := file.WriteAt([]byte("another"), 0)
			return err
		},
		"truncate":       func() error { return os.Truncate(f.path, 3) },
		"chown":          func() error { return os.Chown(f.path, 1, 1) },
		"a host's write": func() error { return os.WriteFile(f.host, []byte("host"), 0) },
	} {
		for range 10 {
			if err := errors.Join(write(), os.Chmod(f.path, 0o755|os.ModeSetuid|os.ModeSetgid),
				unix.Setxattr(f.path, "security.capability", capability, 0)); err != nil {
				t.Fatal(err)
			}
			if !privileged() {
				t.Fatalf("%s: set-id bits do not hold before it", name)
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if privileged() {
				guest, _ := f.stat()
				t.Errorf("%s: the file is privileged after it: mode %o", name, guest.Mode)
			}
		}
	}
	// Without execution by the group, set-group-ID gives nobody anything (inode(7)).
	if err := errors.Join(os.Chmod(f.path, 0o640|os.ModeSetgid), write()); err != nil {
		t.Fatal(err)
	}
	if guest, _ := f.stat(); guest.Mode&permissions != 0o2640 {
		t.Errorf("a write left mode %o of 2640", guest.Mode&permissions)
	}
}

// Who owns a file in the guest may read it without leaving a time of access, whoever owns it
// on the host (open(2), O_NOATIME).
func TestNoAtime(t *testing.T) {
	f := add(t, start(t), "a", false)
	if err := os.Chown(f.host, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	open(t, f.path, unix.O_RDONLY|unix.O_NOATIME)
}

// FM-56: so are extended attributes.
func TestAttributesAreKept(t *testing.T) {
	f := add(t, start(t), "a", false)
	if err := unix.Setxattr(f.host, "user.host", []byte("host"), 0); err != nil {
		t.Fatal(err)
	}
	get := func(path, name string) string {
		value := make([]byte, 100)
		n, err := unix.Getxattr(path, name, value)
		if err != nil {
			return err.Error()
		}
		return string(value[:n])
	}
	if got := get(f.path, "user.host"); got != "host" {
		t.Errorf("user.host is %s", got)
	}
	for _, name := range []string{"user.host", "user.own", "trusted.own", "security.own"} {
		if err := unix.Setxattr(f.path, name, []byte("guest"), 0); err != nil {
			t.Errorf("setting %s: %v", name, err)
		}
		if got := get(f.path, name); got != "guest" {
			t.Errorf("the guest sees %s = %s", name, got)
		}
		want := unix.ENODATA.Error()
		if name == "user.host" {
			want = "host"
		}
		if got := get(f.host, name); got != want {
			t.Errorf("the host has %s = %s", name, got)
		}
	}
	if err := unix.Setxattr(f.path, "user.own", nil, unix.XATTR_CREATE); !errors.Is(err, unix.EEXIST) {
		t.Errorf("XATTR_CREATE: %v", err)
	}
	if err := unix.Setxattr(f.path, "user.none", nil, unix.XATTR_REPLACE); !errors.Is(err, unix.ENODATA) {
		t.Errorf("XATTR_REPLACE: %v", err)
	}
	if err := unix.Removexattr(f.path, "user.host"); err != nil {
		t.Error(err)
	}
	if got := get(f.path, "user.host"); got != unix.ENODATA.Error() {
		t.Errorf("removed, the guest sees %s", got)
	}
	if got := get(f.host, "user.host"); got != "host" {
		t.Errorf("removed in the guest, the host has %s", got)
	}
	names := make([]byte, 1000)
	n, err := unix.Listxattr(f.path, names)
	if list := string(names[:max(n, 0)]); err != nil || strings.Contains(list, "user.host") || !strings.Contains(list, "user.own\x00") {
		t.Errorf("the guest lists %q, %v", list, err)
	}
	if err := unix.Setxattr(f.path, "system.other", []byte("x"), 0); err == nil {
		t.Error("an attribute of the kernel's own was taken")
	}
	// What is kept is bounded.
	for i := range 10 {
		if err = unix.Setxattr(f.path, fmt.Sprintf("user.big%d", i), make([]byte, 32<<10), 0); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("filling: %v", err)
	}
}

// FS_IOC_SETFLAGS and its like would reach the host's inode.
func TestNoIoctl(t *testing.T) {
	f := add(t, start(t), "a", false)
	file := open(t, f.path, os.O_RDWR)
	if err := unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, 0x10); !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.ENOSYS) {
		t.Errorf("setting the immutable flag: %v", err)
	}
}

// Nothing can be made, changed or removed beside an entry.
func TestRootRefuses(t *testing.T) {
	s := start(t)
	add(t, s, "a", false)
	file := filepath.Join(s.dir, "a")
	for name, attack := range map[string]error{
		"create":  os.WriteFile(filepath.Join(s.dir, "b"), nil, 0o600),
		"mkdir":   os.Mkdir(filepath.Join(s.dir, "b"), 0o700),
		"mknod":   unix.Mknod(filepath.Join(s.dir, "b"), unix.S_IFIFO|0o600, 0),
		"symlink": os.Symlink("/", filepath.Join(s.dir, "b")),
		"link":    os.Link(file, filepath.Join(s.dir, "b")),
		"rename":  os.Rename(file, filepath.Join(s.dir, "b")),
		"unlink":  os.Remove(file),
		"chmod":   os.Chmod(s.dir, 0o777),
	} {
		if !errors.Is(attack, unix.EPERM) {
			t.Errorf("%s: %v", name, attack)
		}
	}
}
