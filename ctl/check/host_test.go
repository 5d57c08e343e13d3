package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The kernel of a kit is one that the drivers take, of whichever architecture.
func TestKernelOfKit(t *testing.T) {
	for name, c := range map[string]struct{ kernel, want string }{
		"arm64's image": {strings.Repeat("\x00", 56) + "ARM\x64", ""},
		"no kernel":     {"nothing", "is none that a machine enters"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "vmlinux"), []byte(c.kernel), 0o600); err != nil {
			t.Fatal(err)
		}
		if broken := lookAtKit(dir).Broken; (broken != nil) != (c.want != "") || broken != nil && !strings.Contains(broken.Error(), c.want) {
			t.Errorf("%s: %v", name, broken)
		}
	}
	if broken := lookAtKit(t.TempDir()).Broken; broken != nil {
		t.Errorf("a kernel that is missing is told as such, not as %v", broken)
	}
}
