package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// peer compares whole runs of one command with microsandbox's, on the same root
// file system, with the same kernel, one processor and 256 MiB.
func peer(host *harness.Host, dir string) (_ []result, err error) {
	rootfs, err := os.MkdirTemp(host.Dir, "rootfs-")
	if err != nil {
		return nil, err
	}
	if _, stderr, code := host.Ctr("image", "mount", "--rw", harness.Image, rootfs); code != 0 {
		return nil, fmt.Errorf("mounting the image: %s", stderr)
	}
	defer func() {
		if _, stderr, code := host.Ctr("image", "unmount", "--rm", rootfs); code != 0 {
			err = errors.Join(err, fmt.Errorf("unmounting the image: %s", stderr))
		}
	}()
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
			{&theirs, microsandbox(dir, rootfs)},
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

type runs struct{ first, whole []time.Duration }

func microsandbox(dir, rootfs string) *osexec.Cmd {
	cmd := osexec.Command(filepath.Join(dir, "bin", "msb"), "run", "--quiet", "--cpus", "1", "--memory", "256M", rootfs, "--", "/bin/echo", "hello")
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(dir, "lib"), "HOME="+filepath.Dir(rootfs))
	return cmd
}

// timed runs a command that prints "hello" and returns when that came and when the
// command had ended.
func timed(cmd *osexec.Cmd) (first, whole time.Duration, err error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	word := make([]byte, len("hello"))
	_, readErr := io.ReadFull(stdout, word)
	first = time.Since(start)
	rest, _ := io.ReadAll(stdout)
	err = errors.Join(readErr, cmd.Wait())
	if err == nil && string(word) != "hello" {
		err = fmt.Errorf("it printed %q", string(word)+string(rest))
	}
	return first, time.Since(start), err
}
