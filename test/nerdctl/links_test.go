package nerdctl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// secret is what a file of the host has that no container is given.
const secret = "secret of the host"

// plants are links of a container to a file of the host, or to its directory.
const plants = `mkdir -p /plant /swap/real
ln -s $HOST/shadow /plant/absolute
ln -s ../../../../../../../..$HOST/shadow /plant/up
ln -s /proc/1/root$HOST/shadow /plant/proc
ln -s $HOST /parent
echo harmless >/swap/real/shadow
cp -r /swap/real /swap/now
while :; do rm -rf /swap/now; ln -s $HOST /swap/now; rm -f /swap/now; cp -r /swap/real /swap/now; done`

// nerdctl cp looks for a path in a container by itself, on the host, and then has tar and cp
// walk it: the container plants links, and swaps directories for links meanwhile.
func TestCopyAttacked(t *testing.T) {
	before := host.Leftovers()
	victim := filepath.Join(dir, "victim")
	shadow := filepath.Join(victim, "shadow")
	if err := errors.Join(os.Mkdir(victim, 0o755), os.WriteFile(shadow, []byte(secret), 0o600)); err != nil {
		t.Fatal(err)
	}
	runContainer(t, []string{"-d", "--name", "attacker", "-e", "HOST=" + victim}, "sh", "-c", plants)
	harness.Eventually(func() bool {
		output, err := nerdctl(t, "exec", "attacker", "test", "-e", "/swap/real/shadow")
		return err == nil && output == ""
	})
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, []byte("of the client"), 0o600); err != nil {
		t.Fatal(err)
	}
	attempts := func(what string, paths ...string) {
		for i, path := range paths {
			out := filepath.Join(dir, "out", what, string(rune('a'+i)))
			if err := os.MkdirAll(out, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, arguments := range [][]string{{"cp", "attacker:" + path, out}, {"cp", "-L", "attacker:" + path, out}, {"cp", mine, "attacker:" + path}} {
				_, _ = nerdctl(t, arguments...) // whether it succeeds is the container's affair
			}
			noSecret(t, out, path)
		}
		if content, err := os.ReadFile(shadow); string(content) != secret {
			t.Errorf("%s: the host's file has %q, %v", what, content, err)
		}
		if entries, err := os.ReadDir(victim); len(entries) != 1 {
			t.Errorf("%s: beside the host's file there is %v, %v", what, entries, err)
		}
	}
	attempts("planted", "/plant", "/plant/absolute", "/plant/up", "/plant/proc", "/parent", "/parent/shadow", "/parent/.", "/parent/new", "/proc/1/root"+shadow)
	for range harness.Many(10, 500) {
		attempts("swapped", "/swap/now/shadow", "/swap/now/.", "/swap/now/new")
	}
	must(t, "rm", "-f", "attacker")
	if left := host.New(before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// noSecret looks through what was copied; links lead where they will.
func noSecret(t *testing.T, dir, from string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), secret) {
			t.Errorf("copying %s gave the host's file, as %s", from, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
