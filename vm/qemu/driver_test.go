package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// msb's build of virtiofsd goes before a distribution's, and what is configured before
// both.
func TestFindVirtiofsd(t *testing.T) {
	dir := t.TempDir()
	program := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	qemu, own, other := program("qemu"), program("own"), program("other")
	for name, c := range map[string]struct {
		driver Driver
		want   string
	}{
		"own":              {Driver{QEMU: qemu, OwnVirtiofsd: own}, own},
		"configured":       {Driver{QEMU: qemu, OwnVirtiofsd: own, Virtiofsd: other}, other},
		"a missing is one": {Driver{QEMU: qemu, OwnVirtiofsd: own, Virtiofsd: filepath.Join(dir, "none")}, ""},
	} {
		if got, err := c.driver.find("amd64"); got.virtiofsd != c.want || (c.want == "") != (err != nil) {
			t.Errorf("%s: %q, %v, want %q", name, got.virtiofsd, err, c.want)
		}
	}
	if _, err := (Driver{QEMU: qemu, OwnVirtiofsd: own}).find("riscv64"); err == nil || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("for an architecture without a machine: %v", err)
	}
	// Without it, whatever the distribution has.
	if got, err := lookUp("", filepath.Join(dir, "none"), other); got != other || err != nil {
		t.Errorf("the next place: %q, %v", got, err)
	}
}
