package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: append([]string{"rbind"}, options...)}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, path, content string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if string(got) != content {
		t.Errorf("%s contains %q, want %q", path, got, content)
	}
}

// Files and directories, read-write and read-only, in a container that owns its
// guest as far as a container can: every capability, every device allowed.
func TestMounts(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"etc/rw.conf": "rw", "etc/ro.conf": "ro", "etc/secret": "secret", "other/rw.conf": "other", "dir/sub/x": "x", "rodir/x": "x",
	} {
		write(t, filepath.Join(dir, name), content)
	}
	if err := os.Symlink("rw.conf", filepath.Join(dir, "other/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "dir/sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "dir/sub"), unix.MNT_DETACH)
	write(t, filepath.Join(dir, "dir/sub/submount"), "submount")

	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithPrivileged, oci.WithAllDevicesAllowed,
		oci.WithMounts([]specs.Mount{
			bind(filepath.Join(dir, "etc/rw.conf"), "/etc/rw.conf"),
			bind(filepath.Join(dir, "etc/ro.conf"), "/new/dir/ro.conf", "ro"),
			bind(filepath.Join(dir, "other/link"), "/etc/link.conf"),
			bind(filepath.Join(dir, "dir"), "/dir"),
			{Type: "bind", Source: filepath.Join(dir, "dir"), Destination: "/flat", Options: []string{"bind"}},
			bind(filepath.Join(dir, "rodir"), "/rodir", "ro"),
			bind(filepath.Join(dir, "etc/rw.conf"), "/rodir/x", "ro"),
			{Type: "tmpfs", Source: "tmpfs", Destination: "/scratch", Options: []string{"size=1m", "nosuid"}},
			bind("/dev/null", "/etc/hidden"),
		}),
	}}, sleeper...)
	c.keepShell()

	t.Run("read-write file", func(t *testing.T) {
		if got := c.must("cat /etc/rw.conf"); got != "rw" {
			t.Errorf("read %q", got)
		}
		c.must("echo -n changed >/etc/rw.conf && sync")
		wantContent(t, filepath.Join(dir, "etc/rw.conf"), "changed")
		write(t, filepath.Join(dir, "etc/rw.conf"), "again!!")
		c.must("for i in 1 2 3 4 5 6 7 8; do [ \"$(cat /etc/rw.conf)\" = again!! ] && exit; sleep 1; done; exit 1")
	})
	t.Run("a symbolic link's file", func(t *testing.T) {
		c.must("[ \"$(cat /etc/link.conf)\" = other ] && echo -n linked >/etc/link.conf")
		wantContent(t, filepath.Join(dir, "other/rw.conf"), "linked")
	})
	t.Run("read-only file", func(t *testing.T) {
		if got := c.must("cat /new/dir/ro.conf"); got != "ro" {
			t.Errorf("read %q", got)
		}
		c.mustFail("echo x >/new/dir/ro.conf", "Read-only file system")
		c.must("mount -o remount,bind,rw /new/dir/ro.conf")
		c.mustFail("echo x >/new/dir/ro.conf", "Read-only file system")
		c.mustFail("chmod 777 /new/dir/ro.conf", "Read-only file system")
		wantContent(t, filepath.Join(dir, "etc/ro.conf"), "ro")
		// Of one source, the read-write mount works and the read-only one does not.
		c.mustFail("mount -o remount,bind,rw /rodir/x; echo x >/rodir/x", "Read-only file system")
		// What the guest knows of the one it believes of the other for a second.
		c.must("echo -n both >/etc/rw.conf; for i in 1 2 3 4 5 6 7 8; do [ \"$(cat /rodir/x)\" = both ] && exit; sleep 1; done; exit 1")
	})
	t.Run("DM01 DM02 directories", func(t *testing.T) {
		c.must("echo -n hello >/dir/new && mkdir /dir/d && ln -s /etc/passwd /dir/l && mv /dir/new /dir/d/moved")
		wantContent(t, filepath.Join(dir, "dir/d/moved"), "hello")
		if target, _ := os.Readlink(filepath.Join(dir, "dir/l")); target != "/etc/passwd" {
			t.Errorf("the link on the host leads to %q", target)
		}
		if got := c.must("cat /dir/sub/submount"); got != "submount" {
			t.Errorf("rbind does not show the submount: %q", got)
		}
		c.mustFail("cat /flat/sub/submount", "No such file")
		c.mustFail("touch /rodir/y", "Read-only file system")
		c.mustFail("mount -o remount,bind,rw /rodir; touch /rodir/y", "Read-only file system")
	})
	t.Run("DM06 DM07 guest-local file systems", func(t *testing.T) {
		c.must("mount | grep -q '^tmpfs on /scratch .*size=1024k' && [ -c /etc/hidden ] && [ -d /proc/1 ] && [ -d /sys/kernel ] && [ -c /dev/pts/ptmx ] && touch /dev/shm/x /dev/mqueue")
	})
	t.Run("no staging point is left in the guest", func(t *testing.T) {
		mounts := c.must("cat /proc/self/mountinfo")
		for line := range strings.Lines(mounts) {
			for _, bad := range []string{"/run/msb", " /fm_", "secret"} {
				if strings.Contains(strings.Split(line, " - ")[0], bad) && !strings.Contains(line, ".conf ") && !strings.Contains(line, "/x ") {
					t.Errorf("mountinfo shows %q: %s", bad, line)
				}
			}
		}
		c.must("! find / -xdev -name secret | grep .")
	})
	t.Run("FM52 FM53 guest root mounts the devices again", func(t *testing.T) {
		// The pool's device hands out the root of a share that is in use.
		c.must("mkdir -p /m/f /m/p && mount -t virtiofs msbfiles /m/f && mount -t virtiofs msbpool /m/p")
		c.must("[ $(ls /m/f | wc -l) = 4 ] && ! find /m -name secret | grep .")
		c.mustFail("echo x >$(ls /m/f/*/ro.conf)", "Read-only file system")
		for _, attack := range []string{
			"touch $d/beside", "mkdir $d/beside", "mknod $d/beside p", "ln -s /etc/passwd $d/beside",
			"mv $d/rw.conf $d/beside", "ln $d/rw.conf $d/beside", "touch /m/f/beside",
		} {
			c.mustFail("d=$(dirname $(ls /m/f/*/rw.conf | head -n 1)); "+attack, "")
		}
		c.mustFail("touch /m/f/beside", "Read-only file system")
		c.must("umount /m/f /m/p")
	})
	t.Run("a device node made in a share opens nothing of the host", func(t *testing.T) {
		c.must("mknod /dir/node c 1 3 && echo x >/dir/node")
		info, err := os.Lstat(filepath.Join(dir, "dir/node"))
		if err != nil || info.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("the node is not on the host: %v %v", info, err)
		}
	})
}

// rootDir is a root file system with a shell in a directory.
func rootDir(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "run"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// rootfsStays looks at what a guest's kernel has of a file that is opened again. A snapshot is the
// container's alone, so the pages stay. Of what the host may change at any time, such as a mounted
// directory or a root that the client has prepared, each open reads anew.
func rootfsStays(t *testing.T) {
	const again = "cat %[1]s >/dev/null && sleep 2 && cat %[1]s >/dev/null && for file in %[1]s; do /probe/probe resident $file; done"
	dir, root, size := t.TempDir(), rootDir(t), 64*os.Getpagesize()
	write(t, filepath.Join(dir, "file"), strings.Repeat("x", size))
	write(t, filepath.Join(root, "file"), strings.Repeat("x", size))
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{
		bind(filepath.Join(host.Output, "tools"), "/probe", "ro"), bind(dir, "/mounted"),
	})}}, sleeper...)
	busybox, mounted, _ := strings.Cut(c.must(fmt.Sprintf(again, "/bin/busybox /mounted/file")), "\n")
	if there, of, _ := strings.Cut(busybox, " of "); there != of || of == "" {
		t.Errorf("of the image's busybox %q pages are there", busybox)
	}
	if mounted != "0 of 64" {
		t.Errorf("of a mounted directory's file %q pages are there", mounted)
	}
	// What the guest changes itself it sees at once, in another process, too.
	if got := c.must("echo one >/root/text; cat /root/text; echo two >/root/text; cat /root/text; cp /root/text /root/new; echo six >/root/new; mv /root/new /root/text; cat /root/text"); got != "one\ntwo\nsix" {
		t.Errorf("it reads %q", got)
	}

	for _, applet := range []string{"cat", "sleep"} {
		if err := os.Symlink("sh", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, code := host.Ctr(append(host.CtrRun(), harness.Bind(filepath.Join(host.Output, "tools"), "/probe", "rbind:ro"),
		"--rootfs", root, "prepared", "/bin/sh", "-c", fmt.Sprintf(again, "/file"))...)
	if code != 0 || out != "0 of 64\n" {
		t.Errorf("of a prepared root: code %d, %q: %s", code, out, stderr)
	}
}

func TestRootfs(t *testing.T) {
	nothingLeft(t)
	t.Run("native snapshotter", func(t *testing.T) {
		ctx, cancel := host.Context()
		defer cancel()
		image, err := host.Client.GetImage(ctx, harness.Image)
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Unpack(ctx, "native"); err != nil {
			t.Fatal(err)
		}
		out, stderr, code := host.Run("native", []string{"--snapshotter", "native"}, "sh", "-c", "echo x >/file && cat /file && stat -f -c %T /")
		if code != 0 || !strings.HasPrefix(out, "x\n") {
			t.Errorf("code %d: %s%s", code, out, stderr)
		}
	})
	t.Run("what was read stays", rootfsStays)
	t.Run("a directory of the host", func(t *testing.T) {
		root := rootDir(t)
		_, stderr, code := host.Ctr("run", "--rm", "--runtime", "io.containerd.msb.v2", "--rootfs", root, "rootfs", "/bin/sh", "-c", "echo made >/made; exit 7")
		if code != 7 {
			t.Errorf("code %d: %s", code, stderr)
		}
		wantContent(t, filepath.Join(root, "made"), "made\n")
	})
	t.Run("FM28 targets that are symbolic links", func(t *testing.T) {
		root, outside, source := rootDir(t), t.TempDir(), filepath.Join(t.TempDir(), "source")
		write(t, source, "mounted")
		write(t, filepath.Join(outside, "victim"), "victim")
		for name, target := range map[string]string{
			"absolute": filepath.Join(outside, "victim"), "relative": "../../../../../../../.." + filepath.Join(outside, "victim"), "dangling": "../../../etc/msb-made",
		} {
			if err := os.Symlink(target, filepath.Join(root, "etc", name)); err != nil {
				t.Fatal(err)
			}
		}
		out, stderr, code := host.Ctr(append(host.CtrRun(),
			harness.Bind(source, "/etc/absolute", "rbind:rw"), harness.Bind(source, "/etc/relative", "rbind:rw"), harness.Bind(source, "/etc/dangling", "rbind:rw"),
			"--rootfs", root, "links", "/bin/sh", "-c", "read a </etc/absolute; read b </etc/relative; read c </etc/dangling; echo $a $b $c; echo written >/etc/absolute")...)
		if code != 0 || out != "mounted mounted mounted\n" {
			t.Errorf("code %d: %q %s", code, out, stderr)
		}
		wantContent(t, filepath.Join(outside, "victim"), "victim")
		wantContent(t, source, "written\n")
		if _, err := os.Lstat("/etc/msb-made"); err == nil {
			t.Error("/etc/msb-made was made on the host")
		}
	})
	t.Run("FM37 a relative source is the bundle's", func(t *testing.T) {
		source := filepath.Join(t.TempDir(), "source")
		write(t, source, "relative")
		relative, err := filepath.Rel(host.Bundle("relative"), source)
		if err != nil {
			t.Fatal(err)
		}
		out, stderr, code := host.Run("relative", []string{harness.Bind(relative, "/f", "rbind:ro")}, "cat", "/f")
		if code != 0 || out != "relative" {
			t.Errorf("code %d: %q %s", code, out, stderr)
		}
	})
	t.Run("FM36 a missing target in a read-only root", func(t *testing.T) {
		root := rootDir(t)
		source := filepath.Join(t.TempDir(), "source")
		write(t, source, "x")
		if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(root, unix.MNT_DETACH)
		if err := unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := host.Ctr(append(host.CtrRun(), harness.Bind(source, "/etc/missing", "rbind:ro"), "--rootfs", root, "missing", "/bin/sh")...)
		if code == 0 || !strings.Contains(stderr, "/etc/missing") || !strings.Contains(stderr, "read-only file system") {
			t.Errorf("code %d: %s", code, stderr)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		_, stderr, code := host.Run("ro", []string{"--read-only"}, "sh", "-c", "echo x >/file")
		if code == 0 || !strings.Contains(stderr, "Read-only file system") {
			t.Errorf("code %d: %s", code, stderr)
		}
	})
}
