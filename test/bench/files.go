package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// files measures mounted files: what staging one costs on the host, and what the
// shield costs beside a plain bind, on the host and all the way from a container.
func files(host *harness.Host) (_ []result, err error) {
	dir, err := os.MkdirTemp(host.Dir, "files-")
	if err != nil {
		return nil, err
	}
	private := filepath.Join(dir, "private")
	if err := errors.Join(os.Mkdir(private, 0o700), unix.Mount("bench", private, "tmpfs", 0, ""), unix.Mount("", private, "", unix.MS_PRIVATE, "")); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Unmount(private, unix.MNT_DETACH)) }()
	mount, trees := filepath.Join(private, "shield"), filepath.Join(private, "trees")
	if err := errors.Join(os.Mkdir(mount, 0o700), os.Mkdir(trees, 0o700)); err != nil {
		return nil, err
	}
	s, err := shield.Start(jail.Program{Path: filepath.Join(host.Output, "lib", "msb", "msb-shield")}, mount, vm.NewConsole(func(string) {}))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	t, err := share.Open(trees, mountns.Namespace{}, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()

	var results []result
	for _, n := range []int{1, 10, 100, 1000} {
		bind, err := stage(t, dir, n, share.Attributes{})
		if err != nil {
			return nil, err
		}
		shielded, err := stage(t, dir, n, share.Attributes{Shield: true})
		if err != nil {
			return nil, err
		}
		each := float64(shielded.Microseconds()) / 1000 / float64(n)
		results = append(results, result{
			name: fmt.Sprintf("staging %d files, shielded, each on the host", n), ours: fmt.Sprint(shielded.Round(time.Microsecond)),
			theirs: fmt.Sprint(bind.Round(time.Microsecond)) + " bound only", figure: each, bound: 1, atMost: true, unit: " ms",
		})
	}
	onHost, err := throughput(t, dir, "through the shield")
	if err != nil {
		return nil, err
	}
	deep, err := stacked(private)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Unmount(deep, unix.MNT_DETACH)) }()
	copied, err := throughput(t, deep, "through the shield, no passthrough")
	if err != nil {
		return nil, err
	}
	inGuest, err := guestThroughput(host, dir, "through the shield")
	if err != nil {
		return nil, err
	}
	copiedInGuest, err := guestThroughput(host, deep, "through the shield, no passthrough")
	if err != nil {
		return nil, err
	}
	return slices.Concat(results, onHost, copied, inGuest, copiedInGuest), nil
}

// stage adds n files and removes them again; the adding counts.
func stage(t *share.Trees, dir string, n int, attributes share.Attributes) (took time.Duration, err error) {
	path := filepath.Join(dir, "staged")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return 0, err
	}
	var shares []share.Share
	defer func() {
		for _, s := range shares {
			err = errors.Join(err, t.Remove(s))
		}
	}()
	begin := time.Now()
	for range n {
		source, err := share.OpenSource(mountns.Namespace{}, path)
		if err != nil {
			return 0, err
		}
		s, err := t.Add(source, attributes)
		source.Close()
		if err != nil {
			return 0, err
		}
		shares = append(shares, s)
	}
	return time.Since(begin), nil
}

const (
	fileSize  = 256 << 20
	chunkSize = 1 << 20
	blockSize = 4 << 10
	blocks    = 20_000
)

// patterns are ways to use a file of fileSize.
var patterns = []struct {
	name string
	run  func(*os.File) error
}{
	{"sequential write", func(f *os.File) error { return sequential(f.WriteAt) }},
	{"sequential read", func(f *os.File) error { return sequential(f.ReadAt) }},
	{"random 4 KiB write", func(f *os.File) error { return random(f.WriteAt) }},
	{"random 4 KiB read", func(f *os.File) error { return random(f.ReadAt) }},
}

func sequential(do func([]byte, int64) (int, error)) error {
	chunk := make([]byte, chunkSize)
	for offset := int64(0); offset < fileSize; offset += chunkSize {
		if _, err := do(chunk, offset); err != nil {
			return err
		}
	}
	return nil
}

func random(do func([]byte, int64) (int, error)) error {
	block := make([]byte, blockSize)
	for range blocks {
		if _, err := do(block, rand.Int64N(fileSize/blockSize)*blockSize); err != nil {
			return err
		}
	}
	return nil
}

// stacked is a directory on as many overlays as the kernel takes, where it does
// not pass FUSE through (FILESYSTEM_MAX_STACK_DEPTH).
func stacked(dir string) (top string, err error) {
	top = filepath.Join(dir, "lower")
	if err := os.Mkdir(top, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"first", "second"} {
		paths := map[string]string{"upper": "", "work": "", "merged": ""}
		for role := range paths {
			paths[role] = filepath.Join(dir, name+"-"+role)
			if err := os.Mkdir(paths[role], 0o700); err != nil {
				return "", err
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", top, paths["upper"], paths["work"])
		if err := unix.Mount("overlay", paths["merged"], "overlay", 0, options); err != nil {
			return "", fmt.Errorf("stacking overlays in %s: %w", dir, err)
		}
		top = paths["merged"]
	}
	return top, nil
}

// throughput compares, on the host, the file itself, a bind and a shielded one.
func throughput(t *share.Trees, dir, how string) (results []result, err error) {
	path := filepath.Join(dir, "data")
	if err := os.WriteFile(path, make([]byte, fileSize), 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(path)
	var opened []*os.File
	defer func() {
		for _, file := range opened {
			file.Close()
		}
	}()
	paths := []string{path}
	for _, attributes := range []share.Attributes{{}, {Shield: true}} {
		source, err := share.OpenSource(mountns.Namespace{}, path)
		if err != nil {
			return nil, err
		}
		s, err := t.Add(source, attributes)
		source.Close()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, t.Remove(s)) }()
		paths = append(paths, filepath.Join(t.Files(), s.Tag, s.Name))
	}
	for _, path := range paths {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		opened = append(opened, file)
	}
	for _, pattern := range patterns {
		times := make([][]time.Duration, len(opened))
		for range rounds {
			for i, file := range opened {
				begin := time.Now()
				if err := pattern.run(file); err != nil {
					return nil, err
				}
				times[i] = append(times[i], time.Since(begin))
			}
		}
		direct, bind, shielded := median(times[0]), median(times[1]), median(times[2])
		results = append(results, result{
			name: "on the host: " + pattern.name + " " + how, ours: show(shielded),
			theirs: fmt.Sprintf("%s bind (%s the file itself)", show(bind), show(direct)),
			figure: float64(shielded) / float64(bind), unit: " ×",
		})
	}
	return results, nil
}

// guestThroughput compares a bind and a shielded file all the way from a container.
func guestThroughput(host *harness.Host, dir, how string) (results []result, err error) {
	ctx, cancel := host.Context()
	defer cancel()
	var mounts []specs.Mount
	for name, option := range map[string]string{"bind": "x-msb.metadata=host", "shield": "x-msb.metadata=guest"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, fileSize), 0o600); err != nil {
			return nil, err
		}
		defer os.Remove(path)
		mounts = append(mounts, specs.Mount{Type: "bind", Source: path, Destination: "/" + name, Options: []string{"rbind", option}})
	}
	mounts = append(mounts, specs.Mount{Type: "bind", Source: filepath.Join(host.Output, "tools"), Destination: "/tools", Options: []string{"rbind", "ro"}})
	c, err := start(ctx, host, "files", harness.Runtime, cio.NullIO, []oci.SpecOpts{
		oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithMounts(mounts),
	}, "sh", "-c", "while :; do sleep 1; done")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.remove(ctx)) }()
	for _, pattern := range []string{"write", "read", "random-write", "random-read"} {
		times := make(map[string][]time.Duration)
		for range rounds {
			for _, name := range []string{"bind", "shield"} {
				out, stderr, code := host.Ctr("task", "exec", "--exec-id", fmt.Sprintf("f%d", time.Now().UnixNano()), "files", "/tools/probe", "pattern", "/"+name, pattern)
				took, parseErr := time.ParseDuration(strings.TrimSpace(out))
				if code != 0 || parseErr != nil {
					return nil, fmt.Errorf("probe pattern %s %s: %s%s", name, pattern, out, stderr)
				}
				times[name] = append(times[name], took)
			}
		}
		bind, shielded := median(times["bind"]), median(times["shield"])
		results = append(results, result{
			name: "from a container: " + pattern + " " + how, ours: show(shielded), theirs: show(bind) + " bind",
			figure: float64(shielded) / float64(bind), bound: 1.3, atMost: true, unit: " ×",
		})
	}
	return results, nil
}
