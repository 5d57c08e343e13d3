package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"time"

	core "github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/image-spec/identity"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// peer compares whole runs of one command with microsandbox's, on the same root
// file system, with one processor and 256 MiB. Each has its own kernel.
func peer(host *harness.Host, dir string) (_ []result, err error) {
	rootfs, remove, err := unpacked(host)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	sized := filepath.Join(host.Dir, "sized.toml")
	if err := os.WriteFile(sized, []byte("driver = \"krun\"\n[vm]\ncpus = 1\nmemory = \"256MiB\"\n"), 0o600); err != nil {
		return nil, err
	}
	var ours, theirs runs
	for i := range rounds {
		for _, one := range []struct {
			into *runs
			cmd  *osexec.Cmd
		}{
			{&theirs, microsandbox(dir, rootfs, host.Dir)},
			{&ours, host.CtrCommand(append(host.CtrRun(), "--runtime-config-path", sized, harness.Image, fmt.Sprintf("peer%d", i), "echo", "hello")...)},
		} {
			first, whole, err := timed(one.cmd)
			if err != nil {
				return nil, fmt.Errorf("%v: %w", one.cmd.Args, err)
			}
			one.into.first = append(one.into.first, first)
			one.into.whole = append(one.into.whole, whole)
		}
	}
	compare := func(name string, ours, theirs []time.Duration) result {
		a, b := median(ours), median(theirs)
		return result{name: name, ours: show(a), theirs: show(b) + " msb run", figure: float64(a) / float64(b), bound: 1, atMost: true, unit: " ×"}
	}
	return []result{
		compare("run to the first output, against microsandbox", ours.first, theirs.first),
		compare("run in all, against microsandbox", ours.whole, theirs.whole),
	}, nil
}

// unpacked is the image as a plain directory.
func unpacked(host *harness.Host) (dir string, remove func() error, err error) {
	const key = "peer"
	ctx, cancel := host.Context()
	defer cancel()
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		return "", nil, err
	}
	if err := image.Unpack(ctx, native); err != nil {
		return "", nil, err
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return "", nil, err
	}
	snapshots := host.Client.SnapshotService(native)
	mounts, err := snapshots.Prepare(ctx, key, identity.ChainID(layers).String(),
		core.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}))
	if err != nil {
		return "", nil, err
	}
	return mounts[0].Source, func() error {
		ctx, cancel := host.Context()
		defer cancel()
		return snapshots.Remove(ctx, key)
	}, nil
}

// native is the snapshotter whose snapshots are plain directories.
const native = "native"

type runs struct{ first, whole []time.Duration }

func microsandbox(dir, rootfs, home string) *osexec.Cmd {
	cmd := osexec.Command(filepath.Join(dir, "bin", "msb"), "run", "--quiet", "--cpus", "1", "--memory", "256M", rootfs, "--", "/bin/echo", "hello")
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(dir, "lib"), "HOME="+home)
	return cmd
}

// timed runs a command that prints "hello" and returns when that came and when the
// command had ended.
func timed(cmd *osexec.Cmd) (first, whole time.Duration, err error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	word := make([]byte, len("hello"))
	_, readErr := io.ReadFull(stdout, word)
	first = time.Since(start)
	rest, _ := io.ReadAll(stdout)
	err = errors.Join(readErr, cmd.Wait())
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	if err == nil && string(word) != "hello" {
		err = fmt.Errorf("it printed %q", string(word)+string(rest))
	}
	return first, time.Since(start), err
}
