package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

func fmReadOnlyReads(t *testing.T, c contract) {
	if got := c.must("cat /f/ro"); got != "read-only" {
		t.Errorf("read %q", got)
	}
}

func fmWrite(t *testing.T, c contract) {
	c.must("echo -n written >/f/rw")
	wantContent(t, c.path("etc/rw"), "written")
}

func fmHostWrites(_ *testing.T, c contract) {
	write(c.t, c.path("etc/rw"), "by host")
	c.eventually("a write of the host", `[ "$(cat /f/rw)" = "by host" ]`)
	time.Sleep(20 * time.Millisecond)
	write(c.t, c.path("etc/rw"), "BY HOST")
	c.eventually("one of equal length", `[ "$(cat /f/rw)" = "BY HOST" ]`)
}

func fmTruncate(t *testing.T, c contract) {
	c.must("truncate -s 3 /f/rw")
	wantContent(t, c.path("etc/rw"), "BY ")
	if err := os.Truncate(c.path("etc/rw"), 1); err != nil {
		t.Fatal(err)
	}
	c.eventually("the host's truncate", `[ "$(stat -c %s /f/rw)" = 1 ] && [ "$(cat /f/rw)" = B ]`)
}

func fmAppend(t *testing.T, c contract) {
	const writers, lines = 4, 200
	c.must(fmt.Sprintf("probe append /f/append %d %d", writers, lines))
	got, err := os.ReadFile(c.path("append"))
	if err != nil || len(got) != writers*lines*9 || strings.Count(string(got), "\n") != writers*lines {
		t.Errorf("%d bytes, %d lines, %v", len(got), strings.Count(string(got), "\n"), err)
	}
}

func fmMapping(t *testing.T, c contract) {
	c.must("echo -n 0123456789 >/f/rw && probe mmap /f/rw MAPPED")
	wantContent(t, c.path("etc/rw"), "MAPPED6789")
}

func fmDirect(t *testing.T, c contract) {
	if got := c.probe("direct /f/append"); got != "ok" && got != "EINVAL" {
		t.Errorf("O_DIRECT: %s", got)
	}
}

func fmLocks(t *testing.T, c contract) {
	if got := c.probe("lock /f/rw"); got != "EAGAIN EAGAIN" {
		t.Errorf("another process's locks: %s", got)
	}
}

func fmReplace(t *testing.T, c contract) {
	c.must("echo new >/f/new")
	for _, target := range []string{"rw", "ro"} {
		if got := c.probe("rename /f/new /f/" + target); got != "EBUSY" {
			t.Errorf("rename over %s: %s", target, got)
		}
		if got := c.probe("unlink /f/" + target); got != "EBUSY" {
			t.Errorf("unlink of %s: %s", target, got)
		}
	}
	c.must("echo -n content >/f/rw")
	c.mustFail("sed -i s/content/other/ /f/rw", "busy")
	wantContent(t, c.path("etc/rw"), "content")
}

// replace renames a new file over one of the host.
func (c contract) replace(name, content string) {
	c.t.Helper()
	write(c.t, c.path(name+".new"), content)
	if err := os.Rename(c.path(name+".new"), c.path(name)); err != nil {
		c.t.Fatal(err)
	}
}

func fmReplacedOnHost(t *testing.T, c contract) {
	const hold = "exec 3</f/%[1]s; touch /d/many/%[1]s; while [ ! -e /d/many/go ]; do sleep 0.1; done; cat <&3 >/d/many/%[1]s.held"
	for _, name := range []string{"pinned", "follow"} {
		c.must("( " + fmt.Sprintf(hold, name) + " ) >/dev/null 2>&1 &")
		waitFor(t, "the descriptor", func() bool { _, err := os.Stat(c.path("many/" + name)); return err == nil })
		c.replace(name, "new!")
	}
	c.eventually("the new file, with follow", `[ "$(cat /f/follow)" = 'new!' ]`)
	if got := c.must("cat /f/pinned"); got != "old" {
		t.Errorf("the pinned file reads %q", got)
	}
	c.must("echo -n guest >/f/follow && touch /d/many/go")
	wantContent(t, c.path("follow"), "guest")
	for _, name := range []string{"pinned", "follow"} {
		held := c.path("many/" + name + ".held")
		waitFor(t, held, func() bool { got, _ := os.ReadFile(held); return string(got) == "old" })
	}
}

func fmUnlinkedOnHost(t *testing.T, c contract) {
	if err := os.Remove(c.path("unlinked")); err != nil {
		t.Fatal(err)
	}
	if got := c.must("sleep 1.2; cat /f/unlinked && echo x >>/f/unlinked && cat /f/unlinked"); got != "contentcontentx" {
		t.Errorf("after the unlink it reads %q", got)
	}
}

func fmSizes(t *testing.T, c contract) {
	c.must("[ ! -s /f/empty ] && echo -n x >/f/empty")
	wantContent(t, c.path("empty"), "x")
	if got := c.must("stat -c %s /f/sparse; dd if=/f/sparse bs=1 count=1 skip=10000000000 2>/dev/null | od -An -tx1"); got != "10737418240\n 00" {
		t.Errorf("the sparse file: %q", got)
	}
	if info, err := os.Stat(c.path("sparse")); err != nil || blocks(info) > 16 {
		t.Errorf("the sparse file takes %d blocks on the host, %v", blocks(info), err)
	}
	if got := c.probe("allocate /f/empty"); got != "" {
		t.Errorf("allocate and punch a hole: %s", got)
	}
	info, err := os.Stat(c.path("empty"))
	if err != nil || info.Size() != 1<<20 || blocks(info) > 1100 {
		t.Errorf("with a hole: %v, %d blocks, %v", info.Size(), blocks(info), err)
	}
}

// blocks are what a file takes, of 512 bytes.
func blocks(info os.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks }

func fmIdentity(t *testing.T, c contract) {
	before := c.probe("stat /f/ro")
	c.must("cat /f/ro /f/rw >/dev/null; sleep 1.2")
	if after := c.probe("stat /f/ro"); after != before {
		t.Errorf("%s, then %s", before, after)
	}
}

func fmExec(t *testing.T, c contract) {
	if got := c.must("/f/script"); got != "ran" {
		t.Errorf("executed: %q", got)
	}
	c.mustFail("/f/noexec", "Permission denied")
	for path, want := range map[string]string{"/f/suid": "0\n", "/f/nosuid": "1000\n"} {
		var out harness.Buffer
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(nil, &out, &out)), func(p *specs.Process) {
			p.User.UID, p.NoNewPrivileges = 1000, false
		}, path, "uid")
		await(t, exit)
		if _, err := process.Delete(c.ctx); err != nil {
			t.Error(err)
		}
		if out.String() != want {
			t.Errorf("%s runs as %q, want %q", path, out.String(), want)
		}
	}
}

func fmReadOnlyHolds(t *testing.T, c contract) {
	check := func(path string) {
		t.Helper()
		for line := range strings.Lines(c.probe("attack " + path)) {
			if !strings.HasSuffix(strings.TrimSpace(line), "=EROFS") {
				t.Errorf("%s: %s", path, line)
			}
		}
	}
	check("/f/ro")
	c.must("mount -o remount,bind,rw /f/ro && mount -o remount,bind,rw /f/rw-ro")
	check("/f/ro")
	check("/f/rw-ro")
	c.must("echo -n both >/f/rw && [ \"$(cat /f/rw-ro)\" = both ]")
	wantContent(t, c.path("etc/ro"), "read-only")
}

func fmTargets(t *testing.T, c contract) {
	// The targets were all missing: parents and files were made.
	if got := c.must("cat /f/twice"); got != "second" {
		t.Errorf("of two mounts at one place the first is seen: %q", got)
	}
	if got := c.must("cat /d/rbind/sibling /d/rbind/target"); got != "siblingread-only" {
		t.Errorf("a file mounted below a directory: %q", got)
	}
	wantContent(t, c.path("dir/target"), "covered")
}

func fmSources(t *testing.T, c contract) {
	if got := c.must("cat /f/same-a /f/same-b"); got != "ab" {
		t.Errorf("two files of one name: %q", got)
	}
	c.must("echo -n coherent >/f/rw")
	c.eventually("the same source at another target", `[ "$(cat /f/rw-again)" = coherent ]`)
	c.must("[ \"$(cat /f/link)\" = real ] && echo -n changed >/f/link")
	wantContent(t, c.path("real"), "changed")
	if target, err := os.Readlink(c.path("link")); err != nil || target != "real" {
		t.Errorf("the symbolic link is %q, %v", target, err)
	}
}

func fmNames(t *testing.T, c contract) {
	for i, name := range oddNames {
		c.must(fmt.Sprintf("echo -n changed >>/f/name%d", i))
		wantContent(t, c.path(filepath.Join("names", name)), name+"changed")
	}
	if got := c.must("cat /f/raw"); got != "raw" {
		t.Errorf("a name that is not UTF-8: %q", got)
	}
}

func fmSocket(t *testing.T, c contract) {
	if got := c.probe("connect /f/socket hello"); got != "hello" {
		t.Errorf("the server's answer: %q", got)
	}
	if got := c.probe("pump /f/socket 200 4096"); got != "ok" {
		t.Errorf("200 connections at once: %s", got)
	}
	if got := c.probe("pump /f/socket 1 33554432"); got != "ok" {
		t.Errorf("32 MiB each way: %s", got)
	}
	var there, here unix.Stat_t
	if err := unix.Stat(c.path("socket"), &there); err != nil {
		t.Fatal(err)
	}
	c.must("chmod 777 /f/socket-rw && chown 1:1 /f/socket-rw")
	if err := unix.Stat(c.path("socket"), &here); err != nil || there.Mode != here.Mode || there.Uid != here.Uid {
		t.Errorf("the host's socket was changed: %v", err)
	}
}

func fmOtherFileSystem(t *testing.T, c contract) {
	c.must("echo -n changed >/f/tmpfs")
	wantContent(t, c.path("tmpfs/file"), "changed")
	c.must("echo -n through >/f/other")
	wantContent(t, c.path("etc/rw"), "through")
}

func fmMetadata(t *testing.T, c contract) {
	var before, after unix.Stat_t
	if err := unix.Stat(c.path("etc/rw"), &before); err != nil {
		t.Fatal(err)
	}
	c.must("chown 1234:5678 /f/rw && chmod 4777 /f/rw && probe times /f/rw 1000000000")
	for _, name := range []string{"user.a", "trusted.b", "security.c"} {
		if got := c.probe("setxattr /f/rw " + name + " value"); got != "" && got != "EPERM" && got != "ENOTSUP" {
			t.Errorf("setting %s: %s", name, got)
		}
		if _, err := unix.Getxattr(c.path("etc/rw"), name, nil); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s on the host: %v", name, err)
		}
	}
	if got := c.probe("getxattr /f/rw user.a"); got != "value" {
		t.Errorf("the guest's own attribute: %s", got)
	}
	if got := c.probe("stat /f/rw"); !strings.Contains(got, "mtime=1000000000 mode=104777 uid=1234 gid=5678") {
		t.Errorf("the guest sees %s", got)
	}
	if err := unix.Stat(c.path("etc/rw"), &after); err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("the host's inode was %+v and is %+v", before, after)
	}
	// Where it was asked for, it goes through as with runc.
	c.must("chmod 600 /f/host && chown 1234 /f/host")
	if err := unix.Stat(c.path("host"), &after); err != nil || after.Mode&0o7777 != 0o600 || after.Uid != 1234 {
		t.Errorf("with x-msb.metadata=host: %o, %d, %v", after.Mode, after.Uid, err)
	}
}

// fmEscape looks at the guest as its root does, outside all containers.
func fmEscape(t *testing.T, c contract) {
	neighbours := t.TempDir()
	write(t, filepath.Join(neighbours, "neighbours-file"), "neighbours-content")
	start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{
		bind(filepath.Join(neighbours, "neighbours-file"), "/f"), bind(neighbours, "/d"),
	})}}, sleeper...)
	report := c.probe("escape")
	if !strings.HasSuffix(report, "end") || strings.Count(report, "\n") < 20 {
		t.Fatalf("the probe did not get out of its container: %s", report)
	}
	processes := make(map[string]bool)
	for line := range strings.Lines(report) {
		fields := strings.Fields(line)
		switch {
		case fields[0] == "file":
			t.Errorf("a staging directory is not empty: %s", line)
		case fields[0] == "mount":
			processes[fields[1]] = true
			if point := fields[6]; strings.HasPrefix(point, "/run/msb/stages") || strings.HasPrefix(point, "/run/msb/files") {
				t.Errorf("a staging point: %s", line)
			}
		}
	}
	if len(processes) < 3 {
		t.Errorf("only %d processes were seen", len(processes))
	}
	c.must("mkdir -p /m/f /m/p && mount -t virtiofs msbfiles /m/f && mount -t virtiofs msbpool /m/p")
	c.must("! find /m -name secret | grep .")
	// Another sandbox's mounts are in neither device, nor in any mountinfo above.
	c.must("! find /m -name 'neighbours*' | grep .")
	if strings.Contains(report, "neighbours") {
		t.Errorf("another sandbox's mount is seen: %s", report)
	}
	// A link made here leads nowhere on the host.
	c.must("ln -s " + c.path("etc/secret") + " /d/many/absolute && ln -s ../../../../../../.." + c.path("etc/secret") + " /d/many/relative")
	for _, link := range []string{"absolute", "relative"} {
		c.mustFail("cat /d/many/"+link, "No such file")
		c.must("! find /m -name " + link + " -exec cat {} \\; 2>/dev/null | grep .")
	}
	c.must("rm /d/many/absolute /d/many/relative")
	for line := range strings.Lines(c.must("for f in /m/f/*/ro; do probe attack $f; done")) {
		if !strings.HasSuffix(strings.TrimSpace(line), "=EROFS") {
			t.Errorf("by the tag mounted again: %s", line)
		}
	}
	for _, attack := range []string{"touch $d/beside", "mkdir $d/beside", "mknod $d/beside p", "ln -s / $d/beside", "mv $d/rw $d/beside", "ln $d/rw $d/beside", "touch /m/f/beside"} {
		c.mustFail("d=$(dirname $(ls /m/f/*/rw | head -n 1)); "+attack, "")
	}
	c.must("umount /m/f /m/p")
}

// fmConfigMap swaps ..data as the kubelet does: the directory shows the new content,
// a file of it (subPath) the old, as with runc.
func fmConfigMap(t *testing.T, c contract) {
	c.must("[ $(cat /d/map/key) = old ] && [ $(cat /f/key) = old ]")
	if err := c.swap("map/"); err != nil {
		t.Fatal(err)
	}
	c.eventually("the new content in the directory", "[ \"$(cat /d/map/key)\" = new ]")
	if got := c.must("cat /f/key"); got != "old" {
		t.Errorf("the file reads %q", got)
	}
}
