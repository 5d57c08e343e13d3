package e2e

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

func dmSubmounts(t *testing.T, c contract) {
	if got := c.must("cat /d/rbind/sub/submount; ls /d/bind/sub | wc -l"); got != "submount0" {
		t.Errorf("rbind, bind: %q", got)
	}
	c.mountTmpfs(t, "late/mnt")
	write(t, c.path("late/mnt/new"), "new")
	c.eventually("a later mount, with rslave", `[ "$(cat /d/rslave/mnt/new)" = new ]`)
	c.must("[ ! -e /d/rprivate/mnt/new ]")
}

func dmEntries(t *testing.T, c contract) {
	many := 100_000
	if harness.Emulated() {
		many = 10_000
	}
	if err := os.Mkdir(c.path("many/entries"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if err := os.WriteFile(c.path(fmt.Sprintf("many/entries/%d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.probe("count /d/many/entries"); got != fmt.Sprint(many) {
		t.Errorf("%s of %d entries", got, many)
	}
	for i, name := range append([]string{"\xff\xfe"}, oddNames...) {
		write(t, c.path("many/names/"+name), fmt.Sprint(i))
	}
	if got := c.must("cat /d/many/names/* | wc -c"); got != fmt.Sprint(len(oddNames)+1) {
		t.Errorf("odd names: %s", got)
	}
}

func dmCalls(t *testing.T, c contract) {
	c.must("cd /d/many && mkdir -p a b && echo x >a/file && probe link a/file a/hard && mv a/file b/moved && probe fsync b/moved && ln -s /etc/passwd lead && grep -q root lead")
	// A tmpfs has user's attributes since Linux 6.6.
	want := ""
	if err := unix.Setxattr(c.path("many/b/moved"), "user.host", nil, 0); errors.Is(err, unix.EOPNOTSUPP) {
		want = "ENOTSUP"
	}
	if got := c.probe("setxattr /d/many/b/moved user.a v"); got != want {
		t.Errorf("setxattr: %q, want %q", got, want)
	}
	if got := c.probe(`setxattr /d/many/b/moved "$(printf 'user.\377')" v`); got != want {
		t.Errorf("setxattr of a name that is not UTF-8: %q, want %q", got, want)
	}
	if info, err := os.Stat(c.path("many/a/hard")); err != nil || info.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("the hard link: %v", err)
	}
	if target, _ := os.Readlink(c.path("many/lead")); target != "/etc/passwd" {
		t.Errorf("the symbolic link: %q", target)
	}
	// Neither file server has FUSE_TMPFILE.
	if got := c.probe("tmpfile /d/many"); got != "ENOTSUP" {
		t.Errorf("O_TMPFILE: %s, want ENOTSUP", got)
	}
}
