package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// source makes files below a new directory, whose content is "secret" or "open" as their
// name says.
func source(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// countMounts counts the mounts of trees.
func countMounts(t *testing.T, trees *Trees) int {
	t.Helper()
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(trees.dir))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// wantHidden looks for content below a directory: of what is hidden there must be none.
func wantHidden(t *testing.T, dir string, hidden ...string) {
	t.Helper()
	for _, path := range hidden {
		if got, err := os.ReadFile(filepath.Join(dir, path)); len(got) > 0 || err == nil && strings.Contains(path, "/under/") {
			t.Errorf("%s has %q, %v", path, got, err)
		}
	}
}

const odd = "odd \n,:\\\xff"

// What is hidden is an empty file or an empty directory to whoever looks at what is served,
// however deep it is, whatever it is of, and however it is mounted.
func TestVM30Hidden(t *testing.T) {
	dir := source(t, ".env", "secrets/under/key", "a/b/c/key", "a/b/seen", "mounted/below/key", odd, "seen")
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), unix.Mount("tmpfs", filepath.Join(dir, "mounted"), "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "mounted"), unix.MNT_DETACH)
	hidden := Hide([]string{".env", "secrets", "a/b/c", "a/b/c/key", odd, "fifo", "mounted", ".env"}, []string{"missing", "seen/under", "secrets"})
	trees := trees(t)
	for name, attributes := range map[string]Attributes{
		"alone":     {},
		"recursive": {Recursive: true},
		"slave":     {Recursive: true, Slave: true},
		"read-only": {Recursive: true, ReadOnly: true, RecursiveReadOnly: true},
		"mapped":    {IDMap: shifted},
	} {
		t.Run(name, func(t *testing.T) {
			attributes.Hidden = hidden
			share := add(t, trees, dir, attributes)
			for _, tree := range []string{trees.pool(), trees.Pool()} {
				served := filepath.Join(tree, share.Tag)
				wantHidden(t, served, ".env", "secrets/under/key", "a/b/c/key", odd, "mounted/below/key")
				wantFile(t, filepath.Join(served, "seen"), "secret")
				wantFile(t, filepath.Join(served, "a/b/seen"), "secret")
				for _, name := range []string{"secrets", "a/b/c", "mounted"} {
					if entries, err := os.ReadDir(filepath.Join(served, name)); len(entries) != 0 || err != nil {
						t.Errorf("%s has %v, %v", name, entries, err)
					}
				}
				if info, err := os.Lstat(filepath.Join(served, "fifo")); err != nil || info.Mode() != 0o444 {
					t.Errorf("the FIFO is %v, %v", info, err)
				}
			}
			if below, err := trees.Submounts(share); err != nil || len(below) > 1 {
				t.Errorf("covers are told to the guest: %q, %v", below, err)
			}
			if left, err := os.ReadDir(trees.scratch()); len(left) != 0 || err != nil {
				t.Errorf("left: %v, %v", left, err)
			}
			if !trees.Release(share) {
				t.Error("another uses it")
			}
			held, err := os.OpenFile(filepath.Join(trees.Pool(), share.Tag), unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			if err := trees.Remove(share); err != nil {
				t.Error(err)
			}
			wantHidden(t, fmt.Sprintf("/proc/self/fd/%d", held.Fd()), ".env", "secrets/under/key", "a/b/c/key")
		})
	}
	// The host's own are as they were.
	wantFile(t, filepath.Join(dir, ".env"), "secret")
}

// What is withheld need not be hidden; the directory that it was on can be.
func TestVM34Withheld(t *testing.T) {
	dir := kernelTree(t)
	trees := trees(t)
	served := filepath.Join(trees.Pool(), add(t, trees, dir, Attributes{Recursive: true, Hidden: Hide([]string{"proc", "data"}, []string{"sys/kernel"})}).Tag)
	wantHidden(t, served, "data/file", "proc/version")
	source, err := OpenSource(mountns.Namespace{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := trees.Add(source, Attributes{Recursive: true, Hidden: Hide([]string{"proc/version"}, nil)}); !errdefs.IsNotFound(err) {
		t.Errorf("hiding what is withheld: %v", err)
	}
}

// What is hidden is hidden before the share is where the guest could see it.
func TestVM30HiddenBefore(t *testing.T) {
	dir := source(t, ".env")
	trees := trees(t)
	source, err := OpenSource(mountns.Namespace{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	share, err := trees.share(trees.pool(), dirPrefix, "", source.object, Attributes{Hidden: Hide([]string{".env"}, nil)})
	if err != nil {
		t.Fatal(err)
	}
	if trees.keeper.has(share.target) {
		t.Error("the keeper has a part in it")
	}
	wantHidden(t, filepath.Join(trees.Pool(), share.Tag), ".env")
}

// attacks are what a file server can be asked to do to a hidden file, or its place.
var attacks = map[string]func(dir string) error{
	"read":       func(dir string) error { return hasContent(dir + "/.env") },
	"read by ..": func(dir string) error { return hasContent(dir + "/a/../.env") },
	"read in a":  func(dir string) error { return hasContent(dir + "/a/key") },
	"write":      func(dir string) error { return os.WriteFile(dir+"/.env", []byte("x"), 0) },
	"truncate":   func(dir string) error { return os.Truncate(dir+"/.env", 0) },
	"chmod":      func(dir string) error { return os.Chmod(dir+"/.env", 0o777) },
	"unlink":     func(dir string) error { return os.Remove(dir + "/.env") },
	"remove directory": func(dir string) error {
		return errors.Join(unix.Rmdir(dir+"/empty"), os.Mkdir(dir+"/empty", 0o700))
	},
	"rename":         func(dir string) error { return os.Rename(dir+"/.env", dir+"/moved") },
	"rename over it": func(dir string) error { return os.Rename(dir+"/seen", dir+"/.env") },
	"exchange": func(dir string) error {
		return unix.Renameat2(unix.AT_FDCWD, dir+"/seen", unix.AT_FDCWD, dir+"/.env", unix.RENAME_EXCHANGE)
	},
	"white out": func(dir string) error {
		return unix.Renameat2(unix.AT_FDCWD, dir+"/.env", unix.AT_FDCWD, dir+"/white", unix.RENAME_WHITEOUT)
	},
	"link": func(dir string) error { return os.Link(dir+"/.env", dir+"/linked") },
	"link by descriptor": func(dir string) error {
		file, err := os.Open(dir + "/.env")
		if err != nil {
			return err
		}
		defer file.Close()
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), unix.AT_FDCWD, dir+"/linked", unix.AT_SYMLINK_FOLLOW)
	},
	"create in it": func(dir string) error { return os.WriteFile(dir+"/a/new", nil, 0o600) },
	"open without a name in it": func(dir string) error {
		fd, err := unix.Open(dir+"/a", unix.O_TMPFILE|unix.O_RDWR, 0o600)
		return errors.Join(err, unix.Close(fd))
	},
	"move its parent away": func(dir string) error {
		if err := os.Rename(dir+"/p", dir+"/q"); err != nil {
			return err
		}
		return errors.Join(hasContent(dir+"/q/key"), os.Rename(dir+"/q", dir+"/p"))
	},
	"reopen": func(dir string) error {
		fd, err := unix.Open(dir+"/.env", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return hasContent(fmt.Sprintf("/proc/self/fd/%d", fd))
	},
}

func hasContent(path string) error {
	content, err := os.ReadFile(path)
	if err == nil && string(content) != "secret" {
		err = fmt.Errorf("it has %q", content)
	}
	return err
}

// Whoever serves the share can neither reach what is hidden nor take away what covers it.
// Without hiding each attack succeeds.
func TestVM30Attacked(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			for _, isHidden := range []bool{true, false} {
				dir := source(t, ".env", "a/key", "p/key", "seen")
				if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
					t.Fatal(err)
				}
				trees := trees(t)
				var attributes Attributes
				if isHidden {
					attributes.Hidden = Hide([]string{".env", "a", "p/key", "empty"}, nil)
				}
				served := filepath.Join(trees.Pool(), add(t, trees, dir, attributes).Tag)
				if err := attack(served); (err == nil) == isHidden {
					t.Errorf("hidden: %t: %v", isHidden, err)
				}
				if isHidden {
					wantHidden(t, served, ".env", "a/key", "p/key", "q/key", "moved", "linked")
					wantFile(t, filepath.Join(dir, ".env"), "secret")
				}
			}
		})
	}
}

// A link leads to what has the name in the share, a hard link is a name of its own.
func TestVM32Links(t *testing.T) {
	dir := source(t, ".env", "secrets/key")
	if err := errors.Join(os.Symlink(".env", filepath.Join(dir, "link")), os.Link(filepath.Join(dir, ".env"), filepath.Join(dir, "hard"))); err != nil {
		t.Fatal(err)
	}
	trees := trees(t)
	served := filepath.Join(trees.Pool(), add(t, trees, dir, Attributes{Hidden: Hide([]string{".env"}, nil)}).Tag)
	// On the host nobody follows it; the guest's kernel looks up what it says.
	target, err := os.Readlink(filepath.Join(served, "link"))
	if err != nil {
		t.Fatal(err)
	}
	wantHidden(t, served, target, "link")
	wantFile(t, filepath.Join(served, "hard"), "secret")
}

// What is hidden differently is another share.
func TestVM30AnotherShare(t *testing.T) {
	dir := source(t, ".env", "other")
	trees := trees(t)
	hide := func(named, others []string) Attributes { return Attributes{Hidden: Hide(named, others)} }
	tags := make(map[string]bool)
	for _, attributes := range []Attributes{
		{}, hide([]string{".env"}, nil), hide([]string{"other"}, nil), hide([]string{".env", "other"}, nil), hide(nil, []string{".env"}),
	} {
		tags[add(t, trees, dir, attributes).Tag] = true
	}
	if len(tags) != 5 {
		t.Errorf("%d shares of 5", len(tags))
	}
	first, again := add(t, trees, dir, hide([]string{"other", ".env"}, nil)), add(t, trees, dir, hide([]string{".env", "other", ".env"}, nil))
	if first.Tag != again.Tag || !tags[first.Tag] {
		t.Error("the same paths are hidden in two shares")
	}
}

// What cannot be hidden is refused, and nothing is left of the try.
func TestVM34Refused(t *testing.T) {
	dir := source(t, ".env", "secrets/key", "seen")
	if err := errors.Join(os.Symlink("secrets", filepath.Join(dir, "link")), os.Symlink("/etc", filepath.Join(dir, "out"))); err != nil {
		t.Fatal(err)
	}
	trees := trees(t)
	long := strings.Repeat("n", 256)
	for name, c := range map[string]struct {
		hidden Hidden
		is     func(error) bool
		says   string
	}{
		"a link":                {Hide([]string{".env", "link"}, nil), errdefs.IsInvalidArgument, `"link", which is to be hidden, is a symbolic link`},
		"through a link":        {Hide([]string{"link/key"}, nil), errdefs.IsInvalidArgument, "goes through one: name what it leads to"},
		"a link that leads out": {Hide([]string{"out/passwd"}, nil), errdefs.IsInvalidArgument, "goes through one"},
		"a link, everywhere":    {Hide(nil, []string{"link"}), errdefs.IsInvalidArgument, `"link", which is to be hidden`},
		"not there":             {Hide([]string{".env", "missing"}, nil), errdefs.IsNotFound, `"missing", which is to be hidden, is not there: create it before`},
		"below a file":          {Hide([]string{"seen/x"}, nil), errdefs.IsNotFound, "is not there"},
		"a long name":           {Hide([]string{".env", long}, nil), errdefs.IsInvalidArgument, "too long"},
		"leads out":             {Hide([]string{"../x"}, nil), func(err error) bool { return errors.Is(err, unix.EXDEV) }, "cannot be hidden"},
	} {
		for _, recursive := range []bool{true, false} {
			before := countMounts(t, trees)
			source, err := OpenSource(mountns.Namespace{}, dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = trees.Add(source, Attributes{Hidden: c.hidden, Recursive: recursive})
			source.Close()
			if !c.is(err) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "source "+dir+": path ") {
				t.Errorf("%s: %v", name, err)
			}
			if after := countMounts(t, trees); after != before {
				t.Errorf("%s: %d mounts were there and %d are", name, before, after)
			}
			for _, place := range []string{trees.scratch(), trees.pool()} {
				if left, err := os.ReadDir(place); len(left) != 0 || err != nil {
					t.Errorf("%s: left: %v, %v", name, left, err)
				}
			}
		}
	}
}

// unhide takes a cover away, as when the host removes what is below it.
func (s Share) unhide(t *testing.T, path string) error {
	t.Helper()
	return unix.Unmount(filepath.Join(s.target, path), unix.MNT_DETACH)
}

// Ten thousand paths are hidden; one more is refused, and so is it of two shares.
func TestVM35Many(t *testing.T) {
	dir := t.TempDir()
	names := make([]string, maxCovers+1)
	for i := range names {
		names[i] = fmt.Sprintf("secret-%d", i)
		if err := os.WriteFile(filepath.Join(dir, names[i]), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trees := trees(t)
	start, free := time.Now(), kernelMemory(t)
	share := add(t, trees, dir, Attributes{Hidden: Hide(names[:maxCovers], nil)})
	t.Logf("%d paths hidden in %v, %d KiB of the kernel's memory", maxCovers, time.Since(start), kernelMemory(t)-free)
	start = time.Now()
	if _, err := trees.covers.again(share.target, Hide(names[:maxCovers], nil)); err != nil {
		t.Error(err)
	}
	t.Logf("looked at in %v", time.Since(start))
	wantHidden(t, filepath.Join(trees.Pool(), share.Tag), names[:maxCovers]...)
	source, err := OpenSource(mountns.Namespace{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, hidden := range []Hidden{Hide(names[maxCovers:], nil), Hide(names, nil), Hide(nil, names)} {
		if _, err := trees.Add(source, Attributes{Hidden: hidden}); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "10000 hidden paths") {
			t.Errorf("one more: %v", err)
		}
	}
	// It stays, for whoever has it still and for the next who wants it.
	if trees.Release(share); trees.Remove(share) != nil {
		t.Error("not removed")
	}
	if next := add(t, trees, dir, Attributes{Hidden: Hide(names[:maxCovers], nil)}); next.Tag != share.Tag {
		t.Error("it was shared anew")
	}
}

// kernelMemory is what the kernel has allocated for itself, in KiB (proc_meminfo(5)).
func kernelMemory(t *testing.T) (size int) {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var part int
		if n, _ := fmt.Sscanf(line, "Slab: %d kB", &part); n == 1 {
			size += part
		}
		if n, _ := fmt.Sscanf(line, "Percpu: %d kB", &part); n == 1 {
			size += part
		}
	}
	return size
}
