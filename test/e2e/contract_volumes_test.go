package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// vmWatch changes a directory on the host in every way while a process of the guest watches
// it. Who looks sees each change. inotify has its events in order: as the first that comes is
// of the guest's own doing, there was none of the host's.
func vmWatch(t *testing.T, c contract) {
	const dir = "many/watched/"
	path := func(name string) string { return c.path(dir + name) }
	for _, name := range []string{"appended", "overwritten", "saved", "deleted", "..1/key"} {
		write(t, path(name), "old")
	}
	if err := errors.Join(os.Symlink("..1", path("..data")), os.Symlink("..data/key", path("key"))); err != nil {
		t.Fatal(err)
	}
	var out harness.Buffer
	process, exit := c.startExec(cio.NewCreator(cio.WithStreams(nil, &out, &out)), nil, "/probe/probe", "watch", "/d/"+dir)
	waitFor(t, "the watch", func() bool { return out.String() == "watching\n" })
	for _, change := range []struct {
		what string
		do   func() error
		seen string
	}{
		{"an append", func() error { return appendTo(path("appended"), "new") }, `[ "$(cat appended)" = oldnew ]`},
		{"an overwrite of equal length", func() error { return os.WriteFile(path("overwritten"), []byte("new"), 0o644) }, `[ "$(cat overwritten)" = new ]`},
		{"a rename over it", func() error { c.replace(dir+"saved", "new"); return nil }, `[ "$(cat saved)" = new ]`},
		{"a new file", func() error { return os.WriteFile(path("created"), nil, 0o644) }, `[ -e created ]`},
		{"a new directory", func() error { return os.Mkdir(path("made"), 0o755) }, `[ -d made ]`},
		{"a removed file", func() error { return os.Remove(path("deleted")) }, `[ ! -e deleted ]`},
		{"a changed mode", func() error { return os.Chmod(path("appended"), 0o755) }, `[ -x appended ]`},
		{"the kubelet's swap", func() error { return c.swap(dir) }, `[ "$(cat key)" = new ]`},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		c.eventually(change.what, "cd /d/"+dir+" && "+change.seen)
	}
	c.must("touch /d/" + dir + "stop")
	await(t, exit)
	if _, err := process.Delete(c.ctx); err != nil {
		t.Error(err)
	}
	if got := out.String(); got != "watching\ncreate watched stop\n" {
		t.Errorf("the watcher was told:\n%s", got)
	}
}

// swap gives a directory of a ConfigMap new content as the kubelet does.
func (c contract) swap(dir string) error {
	write(c.t, c.path(dir+"..2/key"), "new")
	return errors.Join(os.Symlink("..2", c.path(dir+"..data_tmp")),
		os.Rename(c.path(dir+"..data_tmp"), c.path(dir+"..data")), os.RemoveAll(c.path(dir+"..1")))
}

func appendTo(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// fullSize is the size of a volume that gets full, in bytes.
const fullSize = 1 << 20

// vmFull tries what a volume without space answers. With runc a store through a mapping is a
// SIGBUS there; a guest's kernel asks for space only when it writes back.
func vmFull(t *testing.T, c contract) {
	if got := c.probe("fill /d/full/fill"); got != "1048576 ENOSPC, fsync ok, close ok" {
		t.Errorf("writes until it is full: %s", got)
	}
	c.must("truncate -s 65536 /d/full/mapped")
	if got := c.probe("mmap /d/full/mapped stored"); got != "ENOSPC" {
		t.Errorf("msync of a mapping: %q", got)
	}
	wantContent(t, c.path("full/mapped"), strings.Repeat("\x00", 65536))
	// Room for two of sixteen pages, which are written back together.
	c.must(fmt.Sprintf("truncate -s %d /d/full/fill", fullSize-8192))
	if got := c.probe(`mmap /d/full/mapped "$(printf %65536s)"`); got != "ENOSPC" {
		t.Errorf("msync of a mapping of which a part has room: %q", got)
	}
	c.must("truncate -s 0 /d/full/mapped && truncate -s 65536 /d/full/mapped")
	c.probe("fill /d/full/fill")
	if got := c.probe("allocate /d/full/mapped"); got != "ENOSPC" {
		t.Errorf("allocating: %q", got)
	}
	c.must("truncate -s 0 /d/full/fill && probe mmap /d/full/mapped stored")
	wantContent(t, c.path("full/mapped"), "stored"+strings.Repeat("\x00", 65530))
}
