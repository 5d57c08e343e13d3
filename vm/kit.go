package vm

import (
	"debug/elf"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// CheckFiles refuses a guest kit with which a machine would not start, or would
// start and never come back: QEMU enters a kernel that is no ELF image as firmware.
func (c Config) CheckFiles() error {
	for _, file := range []string{c.Kernel, c.Disk} {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("the guest kit is incomplete, install it with \"make install\": %w (%w)", err, errdefs.ErrFailedPrecondition)
		}
	}
	file, err := elf.Open(c.Kernel)
	if err != nil {
		return fmt.Errorf("the guest's kernel %s is no ELF image, reinstall the guest kit: %w (%w)", c.Kernel, err, errdefs.ErrFailedPrecondition)
	}
	return file.Close()
}
