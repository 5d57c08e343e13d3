package harness

import (
	"fmt"
	"os"
	"path/filepath"
)

// HostileKit makes a kit in an empty directory, with the disk of the hostile agent in the
// place of the product's. Words at the end of the disk are for an agent that has no
// container yet; see test/hostile/agent.
func (h *Host) HostileKit(dir, words string) error {
	const disk = "guest.erofs"
	if err := h.KitBut(disk, dir); err != nil {
		return err
	}
	hostile := filepath.Join(h.Output, "tools", "hostile", disk)
	content, err := os.ReadFile(hostile)
	if err != nil {
		return fmt.Errorf("\"make hostile\" builds the hostile agent: %w", err)
	}
	if words == "" {
		return os.Symlink(hostile, filepath.Join(dir, disk))
	}
	tail := make([]byte, 512) // a sector
	copy(tail, "MSB_HOSTILE="+words)
	return os.WriteFile(filepath.Join(dir, disk), append(content, tail...), 0o600)
}
