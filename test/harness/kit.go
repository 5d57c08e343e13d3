package harness

import (
	"os"
	"path/filepath"
)

// KitBut makes a kit in an empty directory: links to the files of the product's, but for one,
// which is the caller's to put there.
func (h *Host) KitBut(file, dir string) error {
	kit := filepath.Join(h.Output, "lib", "msb")
	entries, err := os.ReadDir(kit)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == file {
			continue
		}
		if err := os.Symlink(filepath.Join(kit, entry.Name()), filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
