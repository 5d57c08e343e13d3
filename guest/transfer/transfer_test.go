package transfer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// identity is the map of a container without a user namespace.
var identity = idMap{{0, 0, 1 << 32}}

func newOrder(path string) *order { return &order{Path: path, Users: identity, Groups: identity} }

// out is a path's archive, as its headers and contents by name.
func out(t *testing.T, o *order) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	var buffer bytes.Buffer
	if err := o.pack(&buffer); err != nil {
		t.Fatal(err)
	}
	headers, contents := map[string]*tar.Header{}, map[string]string{}
	r := tar.NewReader(&buffer)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		headers[header.Name], contents[header.Name] = header, string(content)
	}
}

// archive makes one of entries with their names as their contents.
func archive(t *testing.T, entries ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range entries {
		header.Format = tar.FormatPAX
		if header.Typeflag == tar.TypeReg || header.Typeflag == 0 {
			header.Size = int64(len(header.Name))
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			if _, err := io.WriteString(w, header.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buffer
}

// The names of entries, for each way to name a directory.
func TestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := errors.Join(os.MkdirAll(dir+"/sub", 0o755), os.WriteFile(dir+"/sub/.f", []byte("x"), 0o600), os.Symlink("dir", dir+"-link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:              "dir/ dir/sub/ dir/sub/.f",
		dir + "/":        "dir/ dir/sub/ dir/sub/.f",
		dir + "/.":       "./ sub/ sub/.f",
		dir + "-link":    "dir-link",
		dir + "-link/":   "dir-link/ dir-link/sub/ dir-link/sub/.f",
		dir + "/sub/.f":  ".f",
		dir + "/../dir":  "dir/ dir/sub/ dir/sub/.f",
		dir + "-link/./": "dir-link/ dir-link/sub/ dir-link/sub/.f",
	} {
		var buffer bytes.Buffer
		if err := newOrder(path).pack(&buffer); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		var names []string
		r := tar.NewReader(&buffer)
		for header, err := r.Next(); err == nil; header, err = r.Next() {
			names = append(names, header.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// Owners are those of the container's user namespace, both ways.
func TestOwners(t *testing.T) {
	dir := t.TempDir()
	o := newOrder(dir)
	o.Users, o.Groups = idMap{{0, 1000, 10}, {100, 5000, 1}}, idMap{{0, 2000, 10}}
	if err := o.unpack(archive(t, &tar.Header{Name: "plain", Uid: 3, Gid: 4, Mode: 0o600})); err != nil {
		t.Fatal(err)
	}
	o.PreserveOwnership = true
	if err := o.unpack(archive(t, &tar.Header{Name: "kept", Uid: 100, Gid: 4, Mode: 0o600})); err != nil {
		t.Fatal(err)
	}
	if err := o.unpack(archive(t, &tar.Header{Name: "x", Uid: 11, Mode: 0o600})); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a user that the namespace has not: %v", err)
	}
	for name, want := range map[string][2]uint32{"plain": {1000, 2000}, "kept": {5000, 2004}} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &stat); err != nil || stat.Uid != want[0] || stat.Gid != want[1] {
			t.Errorf("%s is of %d:%d, %v; want %v", name, stat.Uid, stat.Gid, err, want)
		}
	}
	headers, _ := out(t, o)
	base := filepath.Base(dir)
	if h := headers[base+"/kept"]; h.Uid != 100 || h.Gid != 4 {
		t.Errorf("kept comes out as %d:%d", h.Uid, h.Gid)
	}
	if h := headers[base+"/"]; h.Uid != overflow || h.Gid != overflow {
		t.Errorf("the directory of another comes out as %d:%d", h.Uid, h.Gid)
	}
}

// A program's capabilities go along.
func TestCapabilities(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "program")
	value := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // vfs_cap_data: cap_net_bind_service
	if err := errors.Join(os.WriteFile(file, nil, 0o755), unix.Setxattr(file, capability, []byte(value), 0)); err != nil {
		t.Fatal(err)
	}
	var buffer bytes.Buffer
	if err := newOrder(file).pack(&buffer); err != nil {
		t.Fatal(err)
	}
	if err := newOrder(dir + "/copy").unpack(&buffer); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	if n, err := unix.Getxattr(dir+"/copy/program", capability, got); err != nil || string(got[:n]) != value {
		t.Errorf("%q, %v", got[:n], err)
	}
}

// What an archive says of names and links stays in its directory.
func TestHostileArchives(t *testing.T) {
	link := func(name, to string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for name, c := range map[string]struct {
		entries []*tar.Header
		fails   bool
	}{
		"dots":                     {[]*tar.Header{{Name: "../../victim", Mode: 0o600}}, false},
		"an absolute name":         {[]*tar.Header{{Name: "/victim", Mode: 0o600}}, false},
		"no name":                  {[]*tar.Header{{Name: "/", Typeflag: tar.TypeDir}}, false},
		"a link up":                {[]*tar.Header{link("l", ".."), {Name: "l/victim"}}, true},
		"an absolute link":         {[]*tar.Header{link("l", "OUTSIDE"), {Name: "l/victim"}}, true},
		"a link to the file":       {[]*tar.Header{link("l", "../victim"), {Name: "l", Mode: 0o600}}, false},
		"a link, then a directory": {[]*tar.Header{link("l", ".."), {Name: "l", Typeflag: tar.TypeDir, Mode: 0o700}}, true},
		"a hard link up":           {[]*tar.Header{{Name: "l", Typeflag: tar.TypeLink, Linkname: "../victim"}}, true},
		"a hard link through one":  {[]*tar.Header{link("l", ".."), {Name: "h", Typeflag: tar.TypeLink, Linkname: "l/victim"}}, true},
		"a FIFO through one":       {[]*tar.Header{link("l", ".."), {Name: "l/victim", Typeflag: tar.TypeFifo}}, true},
		"an unknown type":          {[]*tar.Header{{Name: "x", Typeflag: 'V'}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			victim := filepath.Join(outside, "victim")
			if err := os.WriteFile(victim, []byte("victim"), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, entry := range c.entries {
				entry.Linkname = strings.Replace(entry.Linkname, "OUTSIDE", outside, 1)
			}
			err := newOrder(outside + "/dir").unpack(archive(t, c.entries...))
			if (err != nil) != c.fails {
				t.Errorf("unpack = %v", err)
			}
			info, err := os.Lstat(victim)
			data, readErr := os.ReadFile(victim)
			if err != nil || readErr != nil || string(data) != "victim" || info.Mode() != 0o644 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
				t.Errorf("the file outside is %v, %q, %v", info, data, errors.Join(err, readErr))
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 2 {
				t.Errorf("outside there are %v, %v", entries, err)
			}
		})
	}
}

// An archive that is cut short leaves what is whole, and of the rest nothing.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	whole := archive(t, &tar.Header{Name: "a", Mode: 0o600}, &tar.Header{Name: strings.Repeat("b", 90), Mode: 0o600}).Bytes()
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("b", 90)), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := newOrder(dir).unpack(bytes.NewReader(whole[:1536+40]))
	if err == nil || !errdefs.IsInvalidArgument(classify(err)) {
		t.Errorf("unpack = %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, strings.Repeat("b", 90))); string(data) != "old" {
		t.Errorf("the file there is now %q, %v", data, err)
	}
}

// A file that grows while it is read is as long as it was; sockets have no entry.
func TestLiving(t *testing.T) {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	growing := writerFunc(func(p []byte) (int, error) { return log.Write(p) })
	if err := newOrder(dir + "/log").pack(growing); err != nil {
		t.Error(err)
	}
	if headers, _ := out(t, newOrder(dir+"/.")); len(headers) != 2 || headers["log"] == nil {
		t.Errorf("%v", headers)
	}
	shrinking := writerFunc(func(p []byte) (int, error) { return len(p), log.Truncate(0) })
	if err := newOrder(dir + "/log").pack(shrinking); !errdefs.IsAborted(err) {
		t.Errorf("a file that was cut short: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A helper's end is told by its class; what is no helper's is told, too.
func TestFailure(t *testing.T) {
	for _, c := range []struct {
		code int
		text string
		is   func(error) bool
	}{
		{0, "", func(err error) bool { return err == nil }},
		{5, "no such file", errdefs.IsNotFound},
		{2, "panic: …", errdefs.IsUnknown},
		{137, "", errdefs.IsAborted},
		{5, "", errdefs.IsAborted},
	} {
		if err := failure(c.code, c.text); !c.is(err) {
			t.Errorf("%d %q: %v", c.code, c.text, err)
		}
	}
}
