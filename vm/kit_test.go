package vm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// elfFor is the header of an ELF image of 64 bits, for a machine (elf(5)).
func elfFor(machine uint16) []byte {
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(header[16:], 2) // executable
	binary.LittleEndian.PutUint16(header[18:], machine)
	binary.LittleEndian.PutUint32(header[20:], 1)
	return header
}

func TestCheckFiles(t *testing.T) {
	image := make([]byte, 64)
	copy(image[56:], "ARM\x64")
	for name, c := range map[string]struct {
		kernel []byte
		arch   string
		text   string // of the error
	}{
		"x86-64":          {elfFor(62), "amd64", ""},
		"arm64":           {image, "arm64", ""},
		"arm64's ELF":     {elfFor(183), "", "EM_AARCH64"},
		"empty":           {nil, "", "EOF"},
		"short":           {[]byte("\x7fELF"), "", "EOF"},
		"a bzImage":       {append([]byte("MZ"), make([]byte, 600)...), "", "bad magic number"},
		"is not there":    {[]byte("none"), "", "make install"},
		"almost an image": {append(make([]byte, 56), "ARM"...), "", "bad magic number"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			config := Config{Kernel: filepath.Join(dir, "vmlinux"), Disk: dir}
			if string(c.kernel) != "none" {
				if err := os.WriteFile(config.Kernel, c.kernel, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			arch, err := config.CheckFiles()
			if arch != c.arch || (err != nil) != (c.text != "") {
				t.Fatalf("%q, %v", arch, err)
			}
			if err != nil && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("%v, want %s", err, c.text)
			}
		})
	}
}
