package libkrun

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/krun/api"
)

// fake is a library that notes its calls; the one named refuses.
func fake(refuse string, errno unix.Errno) (*Library, *[]string) {
	calls := new([]string)
	note := func(name string, arguments ...any) int32 {
		*calls = append(*calls, fmt.Sprintf("%s%v", name, arguments))
		if name == refuse {
			return -int32(errno)
		}
		return 0
	}
	return &Library{
		InitLog: func(target int32, level, style, options uint32) int32 {
			return note("log", target, level, style, options)
		},
		HasFeature:    func(feature uint64) int32 { return 1 + note(fmt.Sprint("feature", feature)) },
		GetMaxVCPUs:   func() int32 { return 8 + note("max") },
		CreateContext: func() int32 { return 7 + note("create") },
		SetVMConfig:   func(ctx uint32, cpus uint8, memory uint32) int32 { return note("config", ctx, cpus, memory) },
		SetKernel: func(ctx uint32, path string, format uint32, initramfs uintptr, line string) int32 {
			return note("kernel", ctx, path, format, initramfs, line)
		},
		AddDisk: func(ctx uint32, id, path string, format uint32, readOnly bool) int32 {
			return note("disk", ctx, id, path, format, readOnly)
		},
		AddVirtioFS: func(ctx uint32, tag, path string, window uint64, readOnly bool) int32 {
			return note("fs", ctx, tag, path, window, readOnly)
		},
		DisableImplicitVsock: func(ctx uint32) int32 { return note("no vsock", ctx) },
		AddVsock:             func(ctx, tsi uint32) int32 { return note("vsock", ctx, tsi) },
		AddVsockPort: func(ctx, port uint32, path string, listen bool) int32 {
			return note("port", ctx, port, path, listen)
		},
		SetConsoleOutput: func(ctx uint32, path string) int32 { return note("console", ctx, path) },
		StartEnter:       func(ctx uint32) int32 { return note("start", ctx) },
	}, calls
}

var machine = api.Machine{
	CPUs: 2, MemoryMiB: 256, Kernel: "/k", CommandLine: "quiet", Disk: "/d",
	Shares: []api.Share{{Tag: "a", Dir: "/a"}, {Tag: "b", Dir: "/b"}}, Console: "/c", Socket: "/s", Port: 9,
}

func TestBoot(t *testing.T) {
	library, calls := fake("", 0)
	if err := library.Boot(machine); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"log[2 2 2 1]", "create[]", "config[7 2 256]", "kernel[7 /k 1 0 quiet]", "disk[7 root /d 0 true]", "console[7 /c]",
		"no vsock[7]", "vsock[7 0]", "port[7 9 /s false]", "fs[7 a /a 0 false]", "fs[7 b /b 0 false]", "start[7]",
	}
	if !slices.Equal(*calls, want) {
		t.Errorf("got  %q\nwant %q", *calls, want)
	}
}

func TestBootRefused(t *testing.T) {
	for refused, want := range map[string]string{
		"kernel": "libkrun refused the kernel: invalid argument", "fs": "libkrun refused the share a: invalid argument",
		"start": "libkrun refused the machine: invalid argument", "create": "creating libkrun's context: ",
	} {
		library, calls := fake(refused, unix.EINVAL)
		if refused == "create" {
			library.CreateContext = func() int32 { return -int32(unix.ENOMEM) }
		}
		if err := library.Boot(machine); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", refused, err, want)
		}
		if last := (*calls)[len(*calls)-1]; refused != "create" && !strings.HasPrefix(last, refused) {
			t.Errorf("%s: went on to %s", refused, last)
		}
	}
}

func TestCheck(t *testing.T) {
	library, _ := fake("", 0)
	if err := library.Check(machine); err != nil {
		t.Error(err)
	}
	if err := checkMemory(1 << 30); err == nil || !strings.Contains(err.Error(), "the host cannot give the VM its 1073741824 MiB") {
		t.Errorf("a pebibyte: %v", err)
	}
	many, big := machine, machine
	many.CPUs, big.MemoryMiB = 9, 1<<40
	for _, m := range []api.Machine{many, big} {
		if err := library.Check(m); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%+v: %v", m, err)
		}
	}
	library.GetMaxVCPUs = func() int32 { return -int32(unix.EBUSY) }
	if err := library.Check(machine); err == nil || !strings.Contains(err.Error(), "resource busy") {
		t.Errorf("a busy KVM: %v", err)
	}
	library.HasFeature = func(feature uint64) int32 { return int32(feature) ^ 1 } // no blk
	if err := library.check("/x"); err == nil || !strings.Contains(err.Error(), "without the feature blk") {
		t.Errorf("no blk: %v", err)
	}
}

// What is no libkrun, or none that is new enough, is refused by name.
func TestLoad(t *testing.T) {
	for _, c := range []struct {
		path, want string
	}{
		{"/no/libkrun.so.1", "libkrun is not installed (/no/libkrun.so.1: no such file): build it with \"make deps-krun\""},
		{"library_test.go", "loading libkrun: "},
		{libc(t), ": this libkrun has no krun_"},
	} {
		if _, err := Load(c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
}

// libc is the path of the C library that this process has.
func libc(t *testing.T) string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if path := strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]); strings.HasPrefix(filepath.Base(path), "libc.so.") {
			return path
		}
	}
	t.Fatal("this process has no C library")
	return ""
}

// A libkrun that has all functions and not msb's file server is not taken.
func TestLoadUnpatched(t *testing.T) {
	for extra, want := range map[string]string{"": "this libkrun is not msb's", marker: ""} {
		source := new(strings.Builder)
		for name := range new(Library).symbols() {
			fmt.Fprintf(source, "int %s(void) { return 1; }\n", name)
		}
		if extra != "" {
			fmt.Fprintf(source, "int %s(void) { return 1; }\n", extra)
		}
		path := filepath.Join(t.TempDir(), "libkrun.so.1")
		compile := exec.Command("gcc", "-shared", "-fPIC", "-o", path, "-x", "c", "-")
		compile.Stdin = strings.NewReader(source.String())
		if output, err := compile.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		if _, err := Load(path); !strings.Contains(fmt.Sprint(err), want) || (want == "") != (err == nil) {
			t.Errorf("with %q beside libkrun's functions: %v, want %q", extra, err, want)
		}
	}
}
