package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/go-dmverity/pkg/verity"
)

// verityOption names the file that says how a layer is checked.
const verityOption = "X-containerd.dmverity="

// A layer with a hash tree is checked while it is read: what was changed in it is not read.
func TestImagesVerity(t *testing.T) {
	onOwnHost(t, inFiles)
	nothingLeft(t)
	plain := start(t, inErofs(t), sleeper...)
	tree := plain.must(listing)
	mounts := mountsOf(t, plain.ctx, plain.container)
	layer := slices.IndexFunc(mounts, func(m mount.Mount) bool {
		content, err := os.ReadFile(m.Source)
		return err == nil && m.Type == "erofs" && bytes.Contains(content, []byte("of three names\n"))
	})
	if layer < 0 {
		t.Fatal("no layer has /links/one")
	}
	content, err := os.ReadFile(mounts[layer].Source)
	if err != nil {
		t.Fatal(err)
	}
	plain.end()

	whole := withTree(t, content)
	o := inErofs(t)
	checked := func(file string) func([]mount.Mount) {
		return func(own []mount.Mount) {
			own[layer].Source = file
			own[layer].Options = append(slices.Clone(own[layer].Options), verityOption+file+".dmverity")
		}
	}
	c := startChanged(t, o, checked(whole))
	sameTree(t, tree, c.must(listing))
	c.end()

	changed := copyOf(t, whole, func(content []byte) {
		copy(content, bytes.ReplaceAll(content, []byte("of three names\n"), []byte("of threw names\n")))
	})
	c = startChanged(t, o, func(own []mount.Mount) { own[layer].Source = changed })
	if got := c.must("cat /links/one"); got != "of threw names" {
		t.Errorf("without a check the changed file has %q", got)
	}
	c.end()
	c = startChanged(t, o, checked(changed))
	c.mustFail("cat /links/one", "Input/output error")
	c.end()

	for name, file := range map[string]string{
		"another root":     copyOf(t, whole, func([]byte) {}, func(tree map[string]any) { tree["roothash"] = strings.Repeat("00", 32) }),
		"no superblock":    copyOf(t, whole, func([]byte) {}, func(tree map[string]any) { tree["hashoffset"] = 4096 }),
		"no root":          copyOf(t, whole, func([]byte) {}, func(tree map[string]any) { delete(tree, "roothash") }),
		"a changed tree":   copyOf(t, whole, func(content []byte) { clear(content[len(content)-4096:]) }),
		"no file about it": withTree(t, content, func(file string) error { return os.Remove(file + ".dmverity") }),
	} {
		t.Run(name, func(t *testing.T) {
			nothingLeft(t)
			wantRefused(t, o, file, checked(file))
		})
	}
}

// withTree is a file with an image's content and a hash tree behind it, as containerd's differ
// makes it, and beside it the file that tells of the tree.
func withTree(t *testing.T, content []byte, then ...func(file string) error) string {
	t.Helper()
	const block = 4096
	params := verity.DefaultParams()
	params.DataBlockSize, params.HashBlockSize = block, block
	params.DataBlocks = uint64((len(content) + block - 1) / block)
	params.HashAreaOffset = params.DataBlocks * block
	params.UUID[0] = 1
	offset := params.HashAreaOffset
	size, err := verity.GetHashTreeSize(&params)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "layer.erofs")
	err = errors.Join(os.WriteFile(file, content, 0o600), os.Truncate(file, int64(offset+block+size)))
	if err != nil {
		t.Fatal(err)
	}
	root, err := verity.Create(&params, file, file)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, file, map[string]any{"roothash": hex.EncodeToString(root), "hashoffset": offset})
	for _, f := range then {
		if err := f(file); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func writeTree(t *testing.T, file string, tree map[string]any) {
	t.Helper()
	data, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file+".dmverity", string(data))
}

// copyOf is a copy of a file with a hash tree, with its content changed, and what tells of the
// tree.
func copyOf(t *testing.T, file string, change func([]byte), trees ...func(map[string]any)) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	change(content)
	about, err := os.ReadFile(file + ".dmverity")
	if err != nil {
		t.Fatal(err)
	}
	tree := make(map[string]any)
	if err := json.Unmarshal(about, &tree); err != nil {
		t.Fatal(err)
	}
	for _, change := range trees {
		change(tree)
	}
	changed := filepath.Join(t.TempDir(), "layer.erofs")
	write(t, changed, string(content))
	writeTree(t, changed, tree)
	return changed
}

// startChanged starts a container with its mounts changed.
func startChanged(t *testing.T, o options, change func([]mount.Mount)) *task {
	t.Helper()
	container, created, err := changedTask(t, o, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		_, _ = created.Delete(ctx, client.WithProcessKill)
	})
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	exit, err := created.Wait(ctx)
	if err == nil {
		err = created.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &task{Task: created, t: t, ctx: ctx, container: container, exit: exit}
}
