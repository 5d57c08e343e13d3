package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

const (
	// members is how many containers of one image are in the pod; the last is measured.
	members = 11
	// memberLayers is how many layers their image has at least.
	memberLayers = 12
	// memberFiles is how many small files that has. A file server has a descriptor for each file
	// of each container that the guest knows, and 20,000 may be all that it has.
	memberFiles = 500
	// writtenMiB is what each writes to its root file system.
	writtenMiB = 32
	// memberBound is what the last may take of the guest's memory, for what it reads and writes,
	// as a multiple of what it writes.
	memberBound = 1.2
)

// deeds are what each container does, one after the other.
var deeds = []struct{ name, script string }{
	{"to be started", ""},
	{"to read the image", "find " + furniture + " -type f -exec cat {} + >/dev/null"},
	{fmt.Sprintf("to write %d MiB", writtenMiB), fmt.Sprintf("dd if=/dev/zero of=/written bs=1M count=%d conv=fsync 2>/dev/null", writtenMiB)},
}

// usage is what a pod takes at some time.
type usage struct {
	meminfo map[string]float64 // the guest's (proc_meminfo(5)), in MiB
	vmm     float64            // the VMM's resident memory, in MiB
	mounted int                // images that the guest has mounted with erofs, its own disk among them
	staged  int                // files that are staged for it
}

// used is all of the guest's memory that is not free.
func (u usage) used() float64 { return u.meminfo["MemTotal"] - u.meminfo["MemFree"] }

// A member is a container of the pod: what the pod takes before it starts, and after each of
// its deeds.
type member []usage

// eleventh measures what the eleventh container of an image takes in a pod, whose other
// containers have read what it reads: the guest's memory, and the VMM's on the host.
func eleventh(host *harness.Host) error {
	ctx, cancel := host.Context()
	defer cancel()
	measured := make(map[string][]member)
	for _, snapshotter := range []string{harness.Erofs, "overlayfs"} {
		furnished, err := furnished(ctx, host, snapshotter, memberFiles)
		if err != nil {
			return err
		}
		image, err := layered(ctx, host, snapshotter, furnished, memberLayers-2)
		if err != nil {
			return err
		}
		if measured[snapshotter], err = crowd(ctx, host, snapshotter, image); err != nil {
			return fmt.Errorf("a pod of %s: %w", snapshotter, err)
		}
	}
	printMembers(measured)
	return nil
}

// crowd runs a pod of containers of one image, and measures each.
func crowd(ctx context.Context, host *harness.Host, snapshotter, image string) (all []member, err error) {
	pod := "pod-" + snapshotter
	sandbox, err := start(ctx, host, pod, harness.Runtime, cio.NullIO, []oci.SpecOpts{
		inPod(pod, "sandbox"), oci.WithAnnotations(map[string]string{"io.containerd.msb.vm.memory": "2GiB"}),
	}, harness.Sleeper...)
	if err != nil {
		return nil, err
	}
	// What joins a pod goes before it does.
	containers := []*running{sandbox}
	defer func() {
		for _, c := range slices.Backward(containers) {
			err = errors.Join(err, c.remove(ctx))
		}
	}()
	for i := range members {
		before, err := use(host, pod)
		if err != nil {
			return nil, err
		}
		id := fmt.Sprintf("%s-%d", pod, i+1)
		container, err := above(ctx, host, id, harness.Runtime, snapshotter, image, []oci.SpecOpts{
			oci.WithProcessArgs(harness.Sleeper...), inPod(pod, "container"),
		})
		if err != nil {
			return nil, err
		}
		r, err := startTask(ctx, container, cio.NullIO)
		if err != nil {
			return nil, err
		}
		containers = append(containers, r)
		after, err := deedsOf(host, pod, id)
		if err != nil {
			return nil, err
		}
		all = append(all, append(member{before}, after...))
	}
	return all, nil
}

// deedsOf has a container do its deeds, and tells what its pod takes after each.
func deedsOf(host *harness.Host, pod, id string) (after []usage, err error) {
	for _, deed := range deeds {
		if _, err := shell(host, id, deed.script); err != nil {
			return nil, err
		}
		u, err := use(host, pod)
		if err != nil {
			return nil, err
		}
		after = append(after, u)
	}
	return after, nil
}

// inPod has a container be of a pod, as containerd's CRI plugin says it.
func inPod(pod, kind string) oci.SpecOpts {
	return oci.WithAnnotations(map[string]string{"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": pod})
}

// shell runs a script in a container.
func shell(host *harness.Host, id, script string) (string, error) {
	stdout, stderr, code := host.Ctr("task", "exec", "--exec-id", "shell", id, "sh", "-c", script)
	if code != 0 {
		return "", fmt.Errorf("%s: %s", script, stderr)
	}
	return stdout, nil
}

// use is what a pod takes now. It is the sandbox container that looks.
func use(host *harness.Host, pod string) (usage, error) {
	u := usage{meminfo: make(map[string]float64)}
	processes, err := processesOf(host, pod)
	if err != nil {
		return u, err
	}
	for pid, name := range processes {
		switch name {
		case host.VMM():
			u.vmm = residentMiB(pid)
		case "containerd-shim":
			mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
			if err != nil {
				return u, err
			}
			u.staged = strings.Count(string(mounts), "/msb/files/")
		}
	}
	printed, err := shell(host, pod, "cat /proc/meminfo; ls /sys/fs/erofs")
	for line := range strings.Lines(printed) {
		var name string
		var kib float64
		if n, _ := fmt.Sscanf(line, "%s %f kB", &name, &kib); n == 2 {
			u.meminfo[strings.TrimSuffix(name, ":")] = kib / 1024
		} else if !strings.HasPrefix(line, "features") {
			u.mounted++
		}
	}
	return u, err
}

// printMembers prints what the first and the last container of each snapshotter took.
func printMembers(measured map[string][]member) {
	snapshotters := []string{harness.Erofs, "overlayfs"}
	fmt.Printf("\none pod, %d containers of one image of %d layers: what each takes of memory, in MiB\n", members, memberLayers)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "EROFS: GUEST\tITS CACHE\tVMM\tOVERLAYFS: GUEST\tITS CACHE\tVMM\t  ")
	for _, which := range []int{0, members - 1} {
		for d, deed := range deeds {
			for _, snapshotter := range snapshotters {
				m := measured[snapshotter][which]
				before, after := m[d], m[d+1]
				fmt.Fprintf(w, "%.1f\t%.1f\t%.1f\t", after.used()-before.used(), after.meminfo["Cached"]-before.meminfo["Cached"], after.vmm-before.vmm)
			}
			fmt.Fprintf(w, "  container %d, %s\n", which+1, deed.name)
		}
	}
	w.Flush()
	for _, snapshotter := range snapshotters {
		printLast(snapshotter, measured[snapshotter])
	}
}

// printLast prints what came of the goal, and of what the last container's own part consists.
func printLast(snapshotter string, all []member) {
	first, last := all[0], all[len(all)-1]
	end := len(deeds)
	figure := (last[end].used() - last[1].used()) / writtenMiB
	fmt.Printf("%s: beside its start, container %d takes %.2f × what it writes", snapshotter, members, figure)
	if snapshotter == harness.Erofs {
		fmt.Printf("; at most %.4g ×: %s", memberBound, verdict(figure <= memberBound))
	}
	rest := last[1].used() - last[0].used()
	fmt.Printf("\n  its start takes %.1f MiB:", rest)
	for _, name := range []string{"AnonPages", "Cached", "Buffers", "Slab", "KernelStack", "PageTables", "Percpu"} {
		took := last[1].meminfo[name] - last[0].meminfo[name]
		fmt.Printf(" %s %.1f,", name, took)
		rest -= took
	}
	fmt.Printf(" other pages of the kernel %.1f\n", rest)
	if snapshotter == harness.Erofs {
		// Of the files that are staged, each container has one that it writes to.
		fmt.Printf("  with 1 and with %d containers: erofs mounted in the guest, whose own disk is one, %d and %d times; layers staged %d and %d\n",
			members, first[end].mounted, last[end].mounted, first[end].staged-1, last[end].staged-members)
	}
}
