package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

// CheckFiles refuses a guest kit with which a machine would not start, or would start and
// never come back: QEMU enters a file that is no kernel as firmware. It returns the
// architecture that the kernel is for, by Go's name of it (GOARCH).
func (c Config) CheckFiles() (arch string, err error) {
	for _, file := range []string{c.Kernel, c.Disk} {
		if _, err := os.Stat(file); err != nil {
			return "", fmt.Errorf("the guest kit is incomplete, install it with \"make install\": %w (%w)", err, errdefs.ErrFailedPrecondition)
		}
	}
	if arch, err = KernelArch(c.Kernel); err != nil {
		return "", fmt.Errorf("the guest's kernel %s is none that a machine enters, reinstall the guest kit: %w (%w)", c.Kernel, err, errdefs.ErrFailedPrecondition)
	}
	return arch, nil
}

// Of arm64's boot image (Linux, Documentation/arch/arm64/booting.rst).
const (
	arm64Magic   = "ARM\x64"
	arm64MagicAt = 56
)

// KernelArch tells which architecture a guest's kernel is for, by Go's name: that of x86-64 is an
// ELF image, that of arm64 a boot image.
func KernelArch(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	magic := make([]byte, len(arm64Magic))
	if _, err := file.ReadAt(magic, arm64MagicAt); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if string(magic) == arm64Magic {
		return "arm64", nil
	}
	image, err := elf.NewFile(file)
	if err != nil {
		return "", fmt.Errorf("it is neither an ELF image nor arm64's boot image: %w", err)
	}
	if image.Machine != elf.EM_X86_64 {
		return "", fmt.Errorf("it is an ELF image for %v, not for x86-64", image.Machine)
	}
	return "amd64", nil
}
