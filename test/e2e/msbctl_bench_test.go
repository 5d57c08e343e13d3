package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// Containers are started beside runc's, use files, are told of and drawn, and are gone; also if the
// image is not there, or its program.
func TestMsbctlBench(t *testing.T) {
	nothingLeft(t)
	nothingOfBench(t)
	t.Setenv("TMPDIR", t.TempDir())
	options := []string{"bench", "--address", host.Address(), "--namespace", harness.Namespace, "--config", host.Config, "--rounds", "1", "--file-rounds", "1", "--files", "20"}
	type times struct {
		Runtime string
		Seconds []float64
		Ratio   float64 `json:"ratio_p50"`
	}
	var told struct {
		Runtimes []struct {
			Runtime    string
			Start, End times
		}
		Files []struct {
			Job, Place string
			Runtimes   []times
		}
		LeftOut []string `json:"left_out"`
	}
	svg := filepath.Join(t.TempDir(), "bench.svg")
	stdout, stderr, code := msbctl(t, append(options, "--json", "--svg", svg, harness.Image, "sleep", "1000")...)
	if err := json.Unmarshal([]byte(stdout), &told); err != nil || code != 0 || len(told.Runtimes) != 2 {
		t.Fatalf("code %d, %v, %q, %q", code, err, stdout, stderr)
	}
	runtimes := []string{harness.Runtime, "io.containerd.runc.v2"}
	for i, runtime := range runtimes {
		r := told.Runtimes[i]
		if r.Runtime != runtime || len(r.Start.Seconds) != 1 || len(r.End.Seconds) != 1 || r.Start.Seconds[0] <= 0 || r.Start.Ratio <= 0 {
			t.Errorf("%s: %+v", runtime, r)
		}
	}
	for _, job := range told.Files {
		for i, runtime := range runtimes {
			if r := job.Runtimes[i]; r.Runtime != runtime || len(r.Seconds) != 1 || r.Seconds[0] <= 0 || r.Ratio <= 0 {
				t.Errorf("%s in the %s: %+v", job.Job, job.Place, r)
			}
		}
	}
	if len(told.Files) != 2*7 || len(told.LeftOut) > 0 {
		t.Errorf("%d jobs on files, left out %q", len(told.Files), told.LeftOut)
	}
	if drawn := content(t, svg); !strings.HasPrefix(drawn, "<svg") || !strings.HasSuffix(drawn, "</svg>\n") || !strings.Contains(drawn, "deleting them") {
		t.Errorf("drawn: %q", drawn)
	}
	for words, what := range map[string][]string{
		"pull it": {"not.there/image:latest"}, "no-such-program": {"--against", "", harness.Image, "no-such-program"},
		"none/bench.svg": {"--svg", filepath.Join(t.TempDir(), "none", "bench.svg"), harness.Image, "no-such-program"},
	} {
		if _, stderr, code := msbctl(t, append(options, what...)...); code != 1 || !strings.Contains(stderr, words) {
			t.Errorf("%q: code %d, %q", what, code, stderr)
		}
	}
}

// A signal ends a measurement while a container starts, and while files are worked on, and nothing
// of it is left.
func TestMsbctlBenchInterrupted(t *testing.T) {
	nothingLeft(t)
	nothingOfBench(t)
	ctx, cancel := host.Context()
	defer cancel()
	tmp := t.TempDir()
	for when, begun := range map[string]func() bool{
		"a start": func() bool {
			containers, err := host.Client.Containers(ctx, `id~="^msbctl-bench-"`)
			return err != nil || len(containers) > 0
		},
		// The last shell has started, and the first has 100,000 files to make.
		"files": func() bool {
			containers, err := host.Client.Containers(ctx, `id~="^msbctl-bench-.*-files-1$"`)
			if err != nil || len(containers) == 0 {
				return err != nil
			}
			task, err := containers[0].Task(ctx, nil)
			if err != nil {
				return false
			}
			status, err := task.Status(ctx)
			return err == nil && status.Status == client.Running
		},
	} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), filepath.Join(host.Output, "bin", "msbctl"), "bench", "--address", host.Address(), "--namespace", harness.Namespace, "--config", host.Config,
			"--rounds", "1", "--files", "100000", "--svg", filepath.Join(dir, "bench.svg"), harness.Image, "sleep", "1000")
		var stderr bytes.Buffer
		cmd.Env, cmd.Stderr = append(os.Environ(), "TMPDIR="+tmp), &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, when, begun)
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("in %s: %v, %q", when, err, stderr.String())
		}
		for _, empty := range []string{tmp, dir} {
			if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
				t.Errorf("in %s: %v is left, %v", when, left, err)
			}
		}
	}
}

// nothingOfBench fails if a test leaves containers, snapshots, leases or streams of msbctl bench.
func nothingOfBench(t *testing.T) {
	ctx, cancel := host.Context()
	defer cancel()
	const fifos = "/run/containerd/fifo/*"
	manager := host.Client.LeasesService()
	leases, leasesErr := manager.List(ctx)
	streams, streamsErr := filepath.Glob(fifos)
	if err := errors.Join(leasesErr, streamsErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		containers, err := host.Client.Containers(ctx, `id~="^msbctl-bench-"`)
		if err != nil || len(containers) > 0 {
			t.Errorf("%d containers are left, %v", len(containers), err)
		}
		err = host.Client.SnapshotService("").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			if strings.HasPrefix(info.Name, "msbctl-bench-") {
				t.Errorf("the snapshot %s is left", info.Name)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if now, err := manager.List(ctx); err != nil || len(now) != len(leases) {
			t.Errorf("leases: %v, before %v, %v", now, leases, err)
		}
		if now, err := filepath.Glob(fifos); err != nil || !slices.Equal(now, streams) {
			t.Errorf("streams: %q, before %q, %v", now, streams, err)
		}
	})
}
