package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/copy"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A copier copies files out of a container and into it.
type copier struct {
	*task
	shim *ttrpc.Client
}

func newCopier(t *testing.T, c *task) *copier {
	t.Helper()
	shim, err := copy.Dial(filepath.Join(host.Bundle(c.ID()), "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shim.Close() })
	return &copier{c, shim}
}

func (c *copier) at(path string) *types.ContainerPath {
	return &types.ContainerPath{ContainerID: c.ID(), Path: path}
}

func (c *copier) in(path string, entries ...tar.Header) error {
	return copy.In(c.ctx, c.shim, c.at(path), bytes.NewReader(archive(c.t, entries...)))
}

// archive makes one. The content of a file is its name, as often as its size needs.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range entries {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		content := strings.Repeat(header.Name, int(header.Size)/len(header.Name)+1)
		if _, err := io.WriteString(w, content[:header.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// out returns the entries of a path: their names, types and contents.
func (c *copier) out(place *types.ContainerPath) (map[string]string, error) {
	var buffer bytes.Buffer
	if err := copy.Out(c.ctx, c.shim, place, &buffer); err != nil {
		return nil, err
	}
	entries := make(map[string]string)
	r := tar.NewReader(&buffer)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		entries[header.Name] = fmt.Sprintf("%c %o %d:%d %s%s", header.Typeflag, header.Mode, header.Uid, header.Gid, header.Linkname, content)
	}
}

func (c *copier) wantOut(place *types.ContainerPath, want map[string]string) {
	c.t.Helper()
	got, err := c.out(place)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		c.t.Errorf("%v came out as %q, %v; want %q", place, got, err, want)
	}
}

// Archives go out of a container and into it, whatever state it is in. They are packed and
// unpacked in the guest: a link that the container planted leads nowhere on the host.
func TestTransfer(t *testing.T) {
	nothingLeft(t)
	secret := filepath.Join(t.TempDir(), "secret")
	mounted := filepath.Join(t.TempDir(), "mounted")
	for _, file := range []string{secret, mounted} {
		if err := os.WriteFile(file, []byte("the host's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	task := create(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{
		{Type: "bind", Source: mounted, Destination: "/etc/mounted", Options: []string{"rbind", "rw"}},
		{Type: "bind", Source: mounted, Destination: "/etc/readonly", Options: []string{"rbind", "ro"}},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/scratch"},
	})}}, sleeper...)
	c := newCopier(t, task)
	if err := c.in("/made/before", tar.Header{Name: "f", Size: 3, Mode: 0o640, Uid: 7, Gid: 8}); err != nil {
		t.Fatalf("before the start: %v", err)
	}
	if err := c.Start(c.ctx); err != nil {
		t.Fatal(err)
	}
	if got := c.must("stat -c '%a %u:%g' /made /made/before/f; cat /made/before/f"); got != "755 0:0\n640 0:0\nfff" {
		t.Errorf("the container has %q", got)
	}
	t.Run("semantics", func(t *testing.T) { transferSemantics(t, c) })
	t.Run("links", func(t *testing.T) { transferLinks(t, c, secret) })
	t.Run("mounts", func(t *testing.T) { transferMounts(t, c, mounted) })
	t.Run("big", func(t *testing.T) { transferBig(t, c) })
	t.Run("many", func(t *testing.T) { transferMany(t, c) })
	t.Run("cancelled", func(t *testing.T) { transferCancelled(t, c) })
	t.Run("ended", func(t *testing.T) {
		c.must("echo -n kept >/scratch/kept")
		if err := c.Kill(c.ctx, unix.SIGKILL, client.WithKillAll); err != nil {
			t.Fatal(err)
		}
		await(t, c.exit)
		c.wantOut(c.at("/scratch/kept"), map[string]string{"kept": "0 644 0:0 kept"})
		if err := c.in("/made", tar.Header{Name: "after", Size: 5, Mode: 0o600}); err != nil {
			t.Error(err)
		}
		c.wantOut(c.at("/made/after"), map[string]string{"after": "0 600 0:0 after"})
	})
	if _, err := c.Delete(c.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.out(c.at("/")); err == nil {
		t.Error("a deleted container has a file system")
	}
}

func transferSemantics(t *testing.T, c *copier) {
	c.must("mkdir -p /d/sub && echo -n one >/d/a && chmod 4751 /d/a && ln /d/a /d/b && ln -s a /d/l && mkfifo /d/sub/p && chown 12:34 /d/sub")
	tree := func(prefix string) map[string]string {
		entries := map[string]string{}
		for name, is := range map[string]string{"a": "0 4751 0:0 one", "l": "2 777 0:0 a", "sub/": "5 755 12:34 ", "sub/p": "6 644 12:34 "} {
			entries[prefix+name] = is
		}
		return entries
	}
	c.must("chown 12:34 /d/sub/p")
	whole := tree("d/")
	whole["d/"] = "5 755 0:0 "
	whole["d/b"] = "1 4751 0:0 d/a"
	content := tree("")
	content["./"] = "5 755 0:0 "
	content["b"] = "1 4751 0:0 a"
	got, err := c.out(c.at("/d"))
	if _, first := got["d/b"]; err == nil && first && strings.HasPrefix(got["d/b"], "0") { // whichever name comes first
		whole["d/a"], whole["d/b"] = "1 4751 0:0 d/b", "0 4751 0:0 one"
		content["a"], content["b"] = "1 4751 0:0 b", "0 4751 0:0 one"
	}
	c.wantOut(c.at("/d"), whole)
	c.wantOut(c.at("/d/"), whole)
	c.wantOut(c.at("d/../d/."), content)
	c.wantOut(&types.ContainerPath{ContainerID: c.ID(), Path: "/d", NoWalk: true}, map[string]string{"d/": "5 755 0:0 "})
	c.wantOut(c.at("/d/l"), map[string]string{"l": "2 777 0:0 a"})

	file := tar.Header{Name: "new/x", Size: 4, Mode: 0o604, Uid: 12, Gid: 34, ModTime: time.Unix(1e9, 0)}
	if err := errors.Join(c.in("/d", file), c.in("/d/a", tar.Header{Name: "other", Size: 5, Mode: 0o600})); err != nil {
		t.Error(err)
	}
	keeping := &types.ContainerPath{ContainerID: c.ID(), Path: "/e/deep", PreserveOwnership: true}
	if err := copy.In(c.ctx, c.shim, keeping, bytes.NewReader(archive(t, file))); err != nil {
		t.Error(err)
	}
	want := "604 0:0 1000000000\n604 12:34 1000000000\nother"
	if got := c.must("stat -c '%a %u:%g %Y' /d/new/x /e/deep/new/x; cat /d/a"); got != want {
		t.Errorf("the container has %q, want %q", got, want)
	}
	stuck, client := io.Pipe() // of a client that sends nothing, and does not end
	defer client.Close()
	for name, try := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"a file in place of a directory": {c.in("/d", tar.Header{Name: "sub", Size: 1}), errdefs.IsFailedPrecondition},
		"a directory in place of a file": {c.in("/d", tar.Header{Name: "a", Typeflag: tar.TypeDir}), errdefs.IsFailedPrecondition},
		"two files in place of one":      {c.in("/d/a", tar.Header{Name: "x"}, tar.Header{Name: "y"}), errdefs.IsInvalidArgument},
		"below a file":                   {c.in("/d/a/b", tar.Header{Name: "x"}), errdefs.IsInvalidArgument},
		"below a file, with no archive":  {copy.In(c.ctx, c.shim, c.at("/d/a/b"), stuck), errdefs.IsInvalidArgument},
		"no archive":                     {copy.In(c.ctx, c.shim, c.at("/d"), strings.NewReader(strings.Repeat("x", 2048))), errdefs.IsInvalidArgument},
		"an archive that is cut short":   {copy.In(c.ctx, c.shim, c.at("/d"), bytes.NewReader(archive(t, tar.Header{Name: "cut", Size: 1 << 20})[:1<<19])), errdefs.IsInvalidArgument},
		"the kernel's file system":       {second(c.out(c.at("/proc/version"))), errdefs.IsInvalidArgument},
		"nothing":                        {second(c.out(c.at("/nothing"))), errdefs.IsNotFound},
		"no directory":                   {second(c.out(c.at("/d/a/"))), errdefs.IsInvalidArgument},
	} {
		if !try.is(try.err) {
			t.Errorf("%s: %v", name, try.err)
		}
	}
	c.must("test ! -e /d/cut && ! ls -A /d | grep msb")
	if root, err := c.out(c.at("/")); err != nil || root["proc/"] == "" || root["proc/version"] != "" || root["d/a"] == "" {
		t.Errorf("the root came out with %d entries, %v", len(root), err)
	}
}

func second(_ map[string]string, err error) error { return err }

// transferLinks tries to get at a file of the host's by links that the container, or the
// archive, has planted.
func transferLinks(t *testing.T, c *copier, secret string) {
	c.must(fmt.Sprintf("mkdir /evil && ln -s %s /evil/file && ln -s %s /evil/dir && ln -s /proc/1/root /evil/root", secret, filepath.Dir(secret)))
	if got, err := c.out(c.at("/evil")); err != nil || strings.Contains(fmt.Sprint(got), "the host's") {
		t.Errorf("%q, %v", got, err)
	}
	for _, path := range []string{"/evil/dir/.", "/evil/dir/secret", secret, "/evil/root" + secret, "/../../../.." + secret} {
		if got, err := c.out(c.at(path)); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	file := tar.Header{Name: "secret", Size: 6, Mode: 0o644}
	_ = c.in(filepath.Dir(secret), file) // a directory of the container's
	_ = c.in("/evil/file", file)
	_ = c.in("/evil/dir", file)
	_ = c.in("/evil", tar.Header{Name: "planted", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(secret)}, tar.Header{Name: "planted/secret", Size: 6})
	_ = c.in("/evil", tar.Header{Name: "../../../../../../../.." + secret, Size: 6})
	if got := content(t, secret); got != "the host's" {
		t.Errorf("the host's file is now %q", got)
	}
	// What comes from an archive stays in its directory.
	if err := c.in("/evil", tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../etc"}, tar.Header{Name: "up/passwd", Size: 6}); err == nil {
		t.Error("an archive wrote through its own link")
	}
	c.must("grep -q root /etc/passwd")
}

// transferMounts copies to and from mounts: the container's view of them.
func transferMounts(t *testing.T, c *copier, mounted string) {
	c.wantOut(c.at("/etc/mounted"), map[string]string{"mounted": "0 600 0:0 the host's"})
	if err := c.in("/etc", tar.Header{Name: "mounted", Size: 7, Mode: 0o644}); err != nil {
		t.Error(err)
	}
	if got := content(t, mounted); got != "mounted" {
		t.Errorf("the host's file is %q", got)
	}
	if err := c.in("/etc/readonly", tar.Header{Name: "x", Size: 1}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a read-only mount: %v", err)
	}
	if err := c.Pause(c.ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.in("/scratch", tar.Header{Name: "paused", Size: 6, Mode: 0o644}); err != nil {
		t.Errorf("paused: %v", err)
	}
	if err := c.Resume(c.ctx); err != nil {
		t.Fatal(err)
	}
	if got := c.must("cat /scratch/paused"); got != "paused" {
		t.Errorf("a tmpfs has %q", got)
	}
}

// transferBig sends 32 MiB there and back.
func transferBig(t *testing.T, c *copier) {
	data := make([]byte, 32<<20)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(data)
	var sent bytes.Buffer
	w := tar.NewWriter(&sent)
	err := w.WriteHeader(&tar.Header{Name: "big", Size: int64(len(data)), Mode: 0o644})
	if err == nil {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := copy.In(c.ctx, c.shim, c.at("/scratch"), &sent); err != nil {
		t.Fatal(err)
	}
	in := time.Since(began)
	if got, want := c.must("sha256sum /scratch/big"), fmt.Sprintf("%x  /scratch/big", sha256.Sum256(data)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	began = time.Now()
	pipe, out := io.Pipe()
	go func() { out.CloseWithError(copy.Out(c.ctx, c.shim, c.at("/scratch/big"), out)) }()
	r := tar.NewReader(pipe)
	hash := sha256.New()
	if _, err = r.Next(); err == nil {
		_, err = io.Copy(hash, r)
	}
	_, _ = io.Copy(io.Discard, pipe)
	if err != nil || string(hash.Sum(nil)) != string(sum(data)) {
		t.Errorf("what came out is another file: %v", err)
	}
	t.Logf("32 MiB in: %v, out: %v", in, time.Since(began))
	c.must("rm /scratch/big")
}

func sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}

func transferMany(t *testing.T, c *copier) {
	var entries []tar.Header
	for i := range 400 {
		entries = append(entries, tar.Header{Name: fmt.Sprintf("%d/%d", i%20, i), Size: int64(5 * i), Mode: 0o644})
	}
	if err := c.in("/scratch/many", entries...); err != nil {
		t.Fatal(err)
	}
	got, err := c.out(c.at("/scratch/many/."))
	if err != nil || len(got) != 421 {
		t.Errorf("%d entries came out, %v", len(got), err)
	}
	for _, entry := range entries {
		if want := strings.Repeat(entry.Name, int(entry.Size)/len(entry.Name)+1)[:entry.Size]; got[entry.Name] != "0 644 0:0 "+want {
			t.Fatalf("%s is %q", entry.Name, got[entry.Name])
		}
	}
}

// transferCancelled leaves in the middle, both ways: no half file is left, and no process.
func transferCancelled(t *testing.T, c *copier) {
	shim := newCopier(t, c.task)
	pipe, archive := io.Pipe()
	sent := make(chan struct{})
	go func() {
		w := tar.NewWriter(archive)
		_ = w.WriteHeader(&tar.Header{Name: "half", Size: 1 << 30, Mode: 0o644})
		_, _ = w.Write(make([]byte, 4<<20))
		close(sent)
	}()
	answer := make(chan error, 1)
	go func() { answer <- copy.In(context.WithoutCancel(c.ctx), shim.shim, c.at("/scratch/cancelled"), pipe) }()
	<-sent
	c.must("ls -A /scratch/cancelled | grep -q msb")
	shim.shim.Close()
	if err := <-answer; err == nil {
		t.Error("a client that left was told that all is well")
	}
	pipe.Close()
	if !harness.Eventually(func() bool { _, code := c.exec("test -z \"$(ls -A /scratch/cancelled)\""); return code == 0 }) {
		t.Errorf("left: %s", c.must("ls -lA /scratch/cancelled"))
	}
	// The other way: a client that reads a little of it.
	c.must("dd if=/dev/zero of=/scratch/zeros bs=1M count=8 2>/dev/null")
	leaving := newCopier(t, c.task)
	reader, out := io.Pipe()
	go func() { answer <- copy.Out(context.WithoutCancel(c.ctx), leaving.shim, c.at("/scratch/zeros"), out) }()
	if _, err := io.ReadFull(reader, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	leaving.shim.Close()
	reader.Close()
	if err := <-answer; err == nil {
		t.Error("a client that left was told that all is well")
	}
}
