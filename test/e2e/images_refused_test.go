package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"
)

// A layer that is none is refused in a sentence that names its file, and leaves nothing
// behind.
func TestImagesRefused(t *testing.T) {
	onOwnHost(t, inFiles)
	nothingLeft(t)
	good := start(t, inErofs(t), sleeper...)
	mounts := mountsOf(t, good.ctx, good.container)
	// The lowest layer is the last before the overlay.
	lowest := len(mounts) - 2
	content, err := os.ReadFile(mounts[lowest].Source)
	if err != nil {
		t.Fatal(err)
	}
	for name, makeLayer := range map[string]func(path string) error{
		"missing":   func(string) error { return nil },
		"truncated": func(path string) error { return os.WriteFile(path, content[:4096], 0o600) },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"random": func(path string) error {
			random := make([]byte, 1<<20)
			_, _ = rand.Read(random)
			return os.WriteFile(path, random, 0o600)
		},
		"of another block size": func(path string) error {
			changed := bytes.Clone(content)
			changed[1024+12] = 16 // blkszbits of struct erofs_super_block (fs/erofs/erofs_fs.h)
			return os.WriteFile(path, changed, 0o600)
		},
		"a link":      func(path string) error { return os.Symlink(mounts[lowest].Source, path) },
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a device":    func(path string) error { return unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))) },
	} {
		t.Run(name, func(t *testing.T) {
			nothingLeft(t)
			dir := t.TempDir()
			layer := filepath.Join(dir, "layer.erofs")
			if err := makeLayer(layer); err != nil {
				t.Fatal(err)
			}
			// Its writable layer is one of its own.
			o := inErofs(t)
			wantRefused(t, o, layer, func(own []mount.Mount) { own[lowest].Source = layer })
		})
	}
	t.Run("a writable layer of another container", func(t *testing.T) {
		nothingLeft(t)
		used := writableLayer(mounts)
		wantRefused(t, inErofs(t), used, func(own []mount.Mount) { own[0].Source = used })
		good.must("echo still >/works; sync; cat /works")
	})
	if got := good.must(readAll); got < "1" {
		t.Errorf("%s bytes are read of an image that is not damaged", got)
	}
	good.end()
	wantClean(t, mounts)
	t.Run("damaged", func(t *testing.T) { fuzzedRoots(t, mounts) })
}

// wantRefused wants a task with changed mounts be refused in a sentence that names a file.
func wantRefused(t *testing.T, o options, file string, change func([]mount.Mount)) {
	t.Helper()
	_, created, err := changedTask(t, o, change)
	if err == nil {
		ctx, cancel := host.Context()
		defer cancel()
		_, _ = created.Delete(ctx, client.WithProcessKill)
		t.Fatal("it was not refused")
	}
	if !strings.Contains(err.Error(), file) || strings.Contains(strings.TrimSpace(err.Error()), "\n") {
		t.Errorf("no sentence with %s: %v", file, err)
	}
}

// changedTask makes a container, and its task with the mounts of its snapshot changed. The
// container goes with the test.
func changedTask(t *testing.T, o options, change func([]mount.Mount)) (client.Container, client.Task, error) {
	t.Helper()
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	ctx, release, err := host.Client.WithLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := release(ctx); err != nil {
			t.Error(err)
		}
	}()
	id := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	spec := append(slices.Clone(o.spec), oci.WithProcessArgs(sleeper...), oci.WithDefaultPathEnv)
	container, err := host.Client.NewContainer(ctx, id, append(o.container(id, nil), client.WithNewSpec(spec...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			t.Error(err)
		}
	})
	mounts := slices.Clone(mountsOf(t, ctx, container))
	change(mounts)
	// What a task is given comes behind the mounts of its container's snapshot, which
	// containerd would then mount on the host.
	setSnapshot(t, ctx, container, "")
	defer setSnapshot(t, ctx, container, id)
	created, err := container.NewTask(ctx, cio.NullIO, client.WithRootFS(mounts))
	return container, created, err
}

// setSnapshot sets what a container's record says of its snapshot; empty is none. Without a
// container only a lease keeps a snapshot.
func setSnapshot(t *testing.T, ctx context.Context, container client.Container, key string) {
	t.Helper()
	err := container.Update(ctx, func(_ context.Context, _ *client.Client, record *containers.Container) error {
		record.SnapshotKey = key
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
