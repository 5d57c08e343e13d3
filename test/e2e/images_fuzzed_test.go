package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// fuzzSeed is what the damaged images are made from. Another finds others.
const fuzzSeed = 20261127

// hangs is how long a guest's kernel may be busy with one image before it counts as one that
// hangs. Then it is killed, which fails no test.
const hangs = 5 * time.Minute

// Damaged images end in an error or with their VM. The shim tells of it, and the host's kernel
// has read none of them.
func TestImagesFuzzed(t *testing.T) {
	nothingLeft(t)
	log := openKernelLog(t)
	defer log.wantNoImages(t)
	f := newFuzzer(t, fuzzSeed)
	const batch = 100
	many := &bulk{t: t, results: make(map[string]int)}
	count := harness.Many(56, 1000)
	for from := 0; from < count; from += batch {
		// The directory is below the host's, whose mounts and loop devices nothingLeft knows.
		many.try(host.Dir, func(dir string) error {
			var errs []error
			for n := from; n < min(from+batch, count); n++ {
				errs = append(errs, f.write(dir, n))
			}
			return errors.Join(errs...)
		})
	}
	t.Logf("%d images of seed %d: %v", count, f.seed, many.results)
	for _, told := range many.told {
		t.Log(told)
	}
	if many.images != count {
		t.Errorf("%d images were tried", many.images)
	}
	if many.results["mounted"] == 0 || many.results[mountedWithErrors] == 0 || many.results["refused"] == 0 {
		t.Error("not all happened that can")
	}

	// An image that panics its kernel: this is how the death of a VM is told.
	before := many.results[deadVM]
	many.try(host.Dir, func(dir string) error {
		return panicking(t, filepath.Join(dir, "panics.ext4"), f.bases[fuzzSums].content)
	})
	if many.results[deadVM] != before+1 {
		t.Error("an image that panics its kernel did not")
	}
}

// panicking writes an ext4 that says that errors are to panic, and has one in its root.
func panicking(t *testing.T, file string, content []byte) error {
	t.Helper()
	if err := writeSparse(file, content); err != nil {
		return err
	}
	for _, args := range [][]string{{"tune2fs", "-e", "panic", file}, {"debugfs", "-w", "-R", "zap_block -p 255 -f <2> 0", file}} {
		if output, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, output)
		}
	}
	return nil
}

// bulk has guests mount many images, and counts what comes of them.
type bulk struct {
	t       *testing.T
	images  int
	results map[string]int
	told    []string // what ended a VM, and what kernels warned of
}

// What comes of an image besides what the probe says of it.
const (
	mountedWithErrors = "mounted, with errors"
	deadVM            = "dead VM"
	hang              = "hang"
	kernelFault       = "fault"
)

// try makes a directory of images, and tries each of them. After one that ends its VM, or makes
// it useless, a new one goes on with the next.
func (b *bulk) try(in string, fill func(dir string) error) {
	b.t.Helper()
	dir, err := os.MkdirTemp(in, "images")
	if err != nil {
		b.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := fill(dir); err != nil {
		b.t.Fatal(err)
	}
	count := len(harness.Names(b.t, dir))
	for first := 0; first < count; {
		first += b.inVM(dir, first)
		if b.t.Failed() {
			return
		}
	}
}

// inVM has a VM try the images from the first on, and returns how many it has tried.
func (b *bulk) inVM(dir string, first int) (tried int) {
	b.t.Helper()
	var out harness.Buffer
	c := start(b.t, options{
		spec: []oci.SpecOpts{
			oci.WithPrivileged, oci.WithAllDevicesAllowed,
			oci.WithMounts([]specs.Mount{bind(dir, "/images"), bind(filepath.Join(host.Output, "tools"), "/probe", "ro")}),
		},
		io: cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out)),
	}, "/probe/probe", "images", "/images", fmt.Sprint(first))
	vmm := findVMM(shimOf(b.t, c.ID())) // 0 if it has ended already
	status := b.awaitProbe(c, &out)
	alive := vmm != 0 && unix.Kill(vmm, 0) == nil
	if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
		b.t.Errorf("deleting the task: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last, whole := "", false
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		switch kind = strings.TrimSuffix(kind, ":"); kind {
		case "trying":
			last = rest
			tried++
			continue
		case "end":
			whole = true
			continue
		case "mounted", "refused", kernelFault:
			if kind == "mounted" && !strings.HasSuffix(rest, " errors:") {
				kind = mountedWithErrors
			}
			b.results[kind]++
			if kind == kernelFault || strings.Contains(rest, "warned") {
				b.told = append(b.told, last+": "+line)
			}
		default:
			b.t.Errorf("the probe said %q", line)
		}
	}
	b.images += tried
	switch {
	case whole && status == 0:
	case status == kernelFaultCode: // told
	case status == hungCode:
		b.results[hang]++
		b.told = append(b.told, last+": "+hang)
	case status == 137 && !alive:
		b.results[deadVM]++
		b.told = append(b.told, last+": "+deadVM)
	default:
		b.t.Errorf("the probe ended with %d at image %s; the VMM lives: %v\n%s", status, last, alive, strings.Join(lines, "\n"))
	}
	return tried
}

// Exit codes of a VM's probe: its own, and one for a guest that was killed because it hung.
const (
	kernelFaultCode = 3
	hungCode        = 1000
)

// awaitProbe waits for the probe's end. If it says nothing for long, it is killed.
func (b *bulk) awaitProbe(c *task, out *harness.Buffer) (code uint32) {
	b.t.Helper()
	said, since := 0, time.Now()
	for {
		select {
		case status := <-c.exit:
			if err := status.Error(); err != nil {
				b.t.Errorf("waiting for the probe: %v", err)
			}
			return status.ExitCode()
		case <-time.After(time.Second):
		}
		if now := len(out.String()); now != said {
			said, since = now, time.Now()
		}
		if time.Since(since) > hangs {
			if err := c.Kill(c.ctx, unix.SIGKILL); err != nil {
				b.t.Errorf("killing a guest that hangs: %v", err)
			}
			await(b.t, c.exit)
			return hungCode
		}
	}
}
