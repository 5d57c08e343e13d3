package check

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

// erofs is the beginning of one of so many blocks of 4 KiB.
func erofs(blocks uint32) string {
	disk := make([]byte, erofsAt+erofsSuperBlock)
	binary.LittleEndian.PutUint32(disk[erofsAt:], erofsMagic)
	binary.LittleEndian.PutUint32(disk[erofsAt+erofsBlocks:], blocks)
	disk[erofsAt+erofsBlockBits] = 12
	return string(disk)
}

// arm64Kernel begins as arm64's boot image does.
var arm64Kernel = strings.Repeat("\x00", 56) + "ARM\x64"

// The parts of a kit are what the drivers take, of whichever architecture.
func TestPartsOfKit(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		mode          os.FileMode
		broken        string
	}{
		"arm64's image":       {"vmlinux", arm64Kernel, 0o644, ""},
		"no kernel":           {"vmlinux", "nothing", 0o644, "is none that a machine enters"},
		"a disk":              {"guest.erofs", erofs(0), 0o644, ""},
		"no disk":             {"guest.erofs", "nothing", 0o644, "it is no erofs"},
		"an empty disk":       {"guest.erofs", "", 0o644, "it is no erofs"},
		"a part of a disk":    {"guest.erofs", erofs(2), 0o644, "it has 1152 bytes of 8192"},
		"a program":           {"msb-krun", "", 0o755, ""},
		"no program":          {"msb-krun", "", 0o644, "msb-krun cannot be run: permission denied"},
		"a shield of no mode": {"msb-shield", "", 0, "msb-shield cannot be run: permission denied"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		if broken := lookAtKit(dir).Broken; (broken != nil) != (c.broken != "") || broken != nil && !strings.Contains(broken.Error(), c.broken) {
			t.Errorf("%s: %v", name, broken)
		}
	}
	if broken := lookAtKit(t.TempDir()).Broken; broken != nil {
		t.Errorf("parts that are missing are told as such, not as %v", broken)
	}
}

// The QEMU that is looked for is that of the guest's architecture.
func TestQEMUOfKit(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	program := func(name, does string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+does+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program("qemu-system-x86_64", "echo QEMU emulator version 1.2.3")
	server := program("virtiofsd", "")
	settings := config.Config{Kit: dir}
	if q := lookAtQEMU(t.Context(), settings, "arm64"); q.Err == nil || q.OfVirtiofsd || !strings.Contains(q.Err.Error(), "qemu-system-aarch64") || q.Package != "qemu-system-arm" {
		t.Errorf("without arm64's: %+v", q)
	}
	arm64 := program("qemu-system-aarch64", "echo 'QEMU emulator version 9.2.4 (Debian 1:9.2.4)'")
	if q := lookAtQEMU(t.Context(), settings, "arm64"); q.Err != nil || q.Path != arm64 || q.Version != "9.2.4" || q.Virtiofsd != server || !q.Own {
		t.Errorf("with arm64's: %+v", q)
	}
	program("qemu-system-aarch64", "echo no library >&2; exit 127")
	if q := lookAtQEMU(t.Context(), settings, "arm64"); q.Err == nil || q.OfVirtiofsd || q.Err.Error() != arm64+" does not run: no library" {
		t.Errorf("that does not run: %+v", q)
	}
	program("virtiofsd", "echo no library >&2; exit 127")
	if q := lookAtQEMU(t.Context(), settings, "amd64"); q.Err == nil || !q.OfVirtiofsd || q.Err.Error() != server+" does not run: no library" {
		t.Errorf("with a virtiofsd that does not run: %+v", q)
	}
}

// What shims would do follows msb's settings and the environment of containerd, of which nothing
// but the names of variables is told.
func TestLookAtTraces(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.Env = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE=/no/s3cret"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	for name, c := range map[string]struct {
		settings config.Tracing
		pid      int
		setting  string
		err      string
	}{
		"off":             {config.Tracing{Endpoint: "off"}, cmd.Process.Pid, "", ""},
		"nobody":          {config.Tracing{}, 0, "", ""},
		"containerd's":    {config.Tracing{}, cmd.Process.Pid, "containerd's environment", "OTEL_EXPORTER_OTLP_CERTIFICATE cannot be used"},
		"ours":            {config.Tracing{Endpoint: "http://c"}, cmd.Process.Pid, "tracing.endpoint", ""},
		"a file that not": {config.Tracing{Endpoint: "http://c", HeadersFile: "/no/headers"}, 0, "tracing.endpoint", "tracing.headers_file (/no/headers) cannot be used"},
	} {
		got := lookAtTraces(c.settings, c.pid)
		if got.Setting != c.setting || (got.Err == nil) != (c.err == "") || got.Err != nil && (!strings.Contains(got.Err.Error(), c.err) || strings.Contains(got.Err.Error(), "s3cret")) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
