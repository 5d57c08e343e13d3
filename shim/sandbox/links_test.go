package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The guest's kernel has the host's settings about links; one that an older kernel of a host
// has not is left out.
func TestLinkParameters(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "fs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"protected_hardlinks": "1\n", "protected_symlinks": "0\n", "protected_regular": "2\n"} {
		if err := os.WriteFile(filepath.Join(dir, "fs", name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := linkParameters(dir)
	if want := []string{"msb.sysctl.fs.protected_hardlinks=1", "msb.sysctl.fs.protected_symlinks=0", "msb.sysctl.fs.protected_regular=2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "fs", "protected_fifos"), []byte("1 init=/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := linkParameters(dir); err == nil {
		t.Errorf("what is no number: %v", got)
	}
}
