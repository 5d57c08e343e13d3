package qemu

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What is not vhost-net's device is not taken for it: QEMU would end with such a file.
func TestNoVhost(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]error{file: unix.ENOTTY, os.DevNull: unix.ENOTTY, filepath.Join(dir, "none"): fs.ErrNotExist} {
		if opened, err := openVhost(device); !errors.Is(err, want) || opened != nil {
			t.Errorf("%s: %v, want %v", device, err, want)
		}
	}
}
