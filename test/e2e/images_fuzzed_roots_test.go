package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/test/kmsg"
)

// fuzzedRoots makes containers of damaged images, as containerd hands them over: copies of the
// images among the mounts of a container without a task.
func fuzzedRoots(t *testing.T, mounts []mount.Mount) {
	log := openKernelLog(t)
	defer log.wantNoImages(t)
	results := make(map[string]int)
	for _, of := range []struct {
		kind  string
		index int
		entry string // a file in it
	}{{"erofs", len(mounts) - 2, "busybox"}, {"ext4", 0, "works"}} {
		content, err := os.ReadFile(mounts[of.index].Source)
		if err != nil {
			t.Fatal(err)
		}
		base := fuzzBase{name: "root", kind: of.kind, content: content}
		base.find(of.entry)
		for n := range harness.Many(2, 30) {
			damaged, done := base.damage(fuzzSeed, n)
			t.Run(fmt.Sprintf("%s %d %s", of.kind, n, done), func(t *testing.T) {
				nothingLeft(t)
				result, told := liveOn(t, of.kind, func(file string) error { return writeSparse(file, damaged) })
				t.Log(result, told)
				results[of.kind+" "+result]++
			})
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(results)) {
		t.Logf("%s: %d", kind, results[kind])
	}

	// What the image says itself is to be done on an error does not end the VM.
	t.Run("ext4 that is to panic", func(t *testing.T) {
		nothingLeft(t)
		content, err := os.ReadFile(mounts[0].Source)
		if err != nil {
			t.Fatal(err)
		}
		if result, told := liveOn(t, "ext4", func(file string) error { return panicking(t, file, content) }); result != "refused" {
			t.Error(result, told)
		}
	})
}

// liveOn has a container live on an image: the lowest layer is an erofs, or the writable layer
// an ext4. It tells what came of it: refused, not created, not started, used, or the end of the
// VM.
func liveOn(t *testing.T, kind string, write func(file string) error) (result, told string) {
	t.Helper()
	var file string
	container, created, err := changedTask(t, inErofs(t), func(own []mount.Mount) {
		if kind == "erofs" {
			own[len(own)-2].Source = filepath.Join(t.TempDir(), "damaged.erofs")
			file = own[len(own)-2].Source
		} else { // containerd makes it unless it is there
			file = own[0].Source
		}
		if err := write(file); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		switch {
		case strings.Contains(err.Error(), file):
			return "refused", err.Error()
		case strings.Contains(err.Error(), "OCI runtime create failed"): // a file of it is damaged
			return "not created", err.Error()
		case strings.Contains(err.Error(), " ended ("):
			return deadVM, err.Error()
		}
		t.Errorf("an error that names neither image %s nor the VM: %v", file, err)
		return "error", ""
	}
	ctx, cancel := host.Context()
	defer cancel()
	defer func() {
		if _, err := created.Delete(ctx, client.WithProcessKill); err != nil {
			t.Errorf("deleting the task: %v", err)
		}
	}()
	exit, err := created.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := created.Start(ctx); err != nil {
		return "not started", err.Error()
	}
	return "used", useRoot(t, container, created, exit)
}

// readAll reads every file of a root file system.
const readAll = "find / -xdev -type f -exec cat {} + | wc -c"

// useRoot reads the root file system of a task, and says what came of it.
func useRoot(t *testing.T, container client.Container, created client.Task, exit <-chan client.ExitStatus) (result string) {
	t.Helper()
	ctx, cancel := host.Context()
	defer cancel()
	spec, err := container.Spec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	use := *spec.Process
	use.Args = []string{"sh", "-c", readAll}
	var out harness.Buffer
	process, err := created.Exec(ctx, "use", &use, cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out)))
	if err != nil {
		return "exec: " + err.Error()
	}
	used, err := process.Wait(ctx)
	if err == nil {
		err = process.Start(ctx)
	}
	if err != nil {
		_, _ = process.Delete(ctx)
		return "exec: " + err.Error()
	}
	select {
	case status := <-used:
		result = fmt.Sprintf("exec: exit code %d", status.ExitCode())
	case status := <-exit:
		result = fmt.Sprintf("ended with %d", status.ExitCode())
	case <-time.After(hangs):
		result = hang
	}
	if _, err := process.Delete(ctx, client.WithProcessKill); err != nil {
		result += ", deleting the exec: " + err.Error()
	}
	return result + ": " + cut(out.String())
}

// kernelLog is the log of the host's kernel since it was opened.
type kernelLog struct{ kmsg.Log }

func openKernelLog(t *testing.T) kernelLog {
	t.Helper()
	log, err := kmsg.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return kernelLog{log}
}

var (
	imageLine = regexp.MustCompile(`(?i)erofs|ext4|jbd2`)
	// goodLine is of a good image, such as containerd mounts when it unpacks another.
	goodLine = regexp.MustCompile(`mounted filesystem|unmounting filesystem|re-mounted|EXT4-fs mount: [0-9]+ callbacks suppressed|mounted with root inode|capacity change`)
)

// wantNoImages fails the test if the host's kernel has met a damaged image.
func (k kernelLog) wantNoImages(t *testing.T) {
	t.Helper()
	lines, err := k.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if strings.Contains(line, fuzzUUID) || imageLine.MatchString(line) && !goodLine.MatchString(line) {
			t.Errorf("the host's kernel said: %s", line)
		}
	}
}
