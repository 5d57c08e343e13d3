package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

func block(major, minor int64) specs.LinuxBlockIODevice {
	return specs.LinuxBlockIODevice{Major: major, Minor: minor}
}

// everyIOLimit asks for all that there is.
func everyIOLimit() *specs.LinuxResources {
	rate := func(rate uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: block(8, 16), Rate: rate}}
	}
	return &specs.LinuxResources{
		BlockIO: &specs.LinuxBlockIO{
			Weight: new(uint16(1000)), LeafWeight: new(uint16(20)),
			WeightDevice:          []specs.LinuxWeightDevice{{LinuxBlockIODevice: block(8, 0), Weight: new(uint16(10)), LeafWeight: new(uint16(30))}},
			ThrottleReadBpsDevice: rate(1), ThrottleWriteBpsDevice: rate(2), ThrottleReadIOPSDevice: rate(3), ThrottleWriteIOPSDevice: rate(0),
		},
		Unified: map[string]string{"io.weight": "default 50\n8:0 60"},
	}
}

func TestIOLimits(t *testing.T) {
	for name, c := range map[string]struct {
		dialect dialect
		want    string
	}{
		"version 1": {legacyDialect, `
blockIO.weight: blkio.weight=1000 blkio.bfq.weight=1000
blockIO.leafWeight: blkio.leaf_weight=20
blockIO.weightDevice: blkio.weight_device=8:0 10 blkio.bfq.weight_device=8:0 10
blockIO.weightDevice's leafWeight: blkio.leaf_weight_device=8:0 30
blockIO.throttleReadBpsDevice: blkio.throttle.read_bps_device=8:16 1
blockIO.throttleWriteBpsDevice: blkio.throttle.write_bps_device=8:16 2
blockIO.throttleReadIOPSDevice: blkio.throttle.read_iops_device=8:16 3
blockIO.throttleWriteIOPSDevice: blkio.throttle.write_iops_device=8:16 0
unified io.weight:
unified io.weight:
`},
		"version 2": {unifiedDialect, `
blockIO.weight: io.bfq.weight=1000 io.weight=10000
blockIO.leafWeight:
blockIO.weightDevice: io.bfq.weight=8:0 10 io.weight=8:0 1
blockIO.weightDevice's leafWeight:
blockIO.throttleReadBpsDevice: io.max=8:16 rbps=1
blockIO.throttleWriteBpsDevice: io.max=8:16 wbps=2
blockIO.throttleReadIOPSDevice: io.max=8:16 riops=3
blockIO.throttleWriteIOPSDevice: io.max=8:16 wiops=max
unified io.weight: io.weight=default 50
unified io.weight: io.weight=8:0 60
`},
	} {
		got := "\n"
		for _, limit := range ioLimits(everyIOLimit(), c.dialect) {
			got += limit.name + ":"
			for _, choice := range limit.choices {
				got += fmt.Sprintf(" %s=%s", choice.file, choice.value)
			}
			got += "\n"
		}
		if got != c.want {
			t.Errorf("%s:%s", name, got)
		}
	}
	if limits := ioLimits(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: new(uint16(0))}}, legacyDialect); len(limits) > 0 {
		t.Errorf("Docker's zero: %+v", limits)
	}
}

// Each limit goes into the first file that is there. None is made, and those without are
// named, each with the reason.
func TestApply(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"io.weight", "io.max"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"memory.max", "cgroup.freeze", "../io.weight"} {
		for _, limit := range ioLimits(&specs.LinuxResources{Unified: map[string]string{file: "1"}}, unifiedDialect) {
			if len(limit.choices) > 0 {
				t.Errorf("%s of the VM's group can be named: %+v", file, limit)
			}
		}
	}
	missed, err := apply(dir, ioLimits(everyIOLimit(), unifiedDialect))
	if err != nil || strings.Join(missed, "; ") != "blockIO.leafWeight (the host's version of control groups does not have it); "+
		"blockIO.weightDevice's leafWeight (the host's version of control groups does not have it)" {
		t.Errorf("missed %q, %v", missed, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("files were made: %v", entries)
	}
	missed, err = apply(dir, []ioLimit{{"a", []line{{"x", "1"}, {"y", "1"}}, false}})
	if err != nil || strings.Join(missed, "") != "a (the host has no x or y here)" {
		t.Errorf("missed %q, %v", missed, err)
	}
	if missed, err = apply("", ioLimits(everyIOLimit(), unifiedDialect)); err != nil || len(missed) != 10 {
		t.Errorf("without a controller: missed %q, %v", missed, err)
	}
}

func TestGoesByWeights(t *testing.T) {
	for name, c := range map[string]struct {
		scheduler, qos string
		want           bool
	}{
		"nothing":  {"none [mq-deadline] bfq", "", false},
		"bfq":      {"none mq-deadline [bfq]", "", true},
		"io.cost":  {"[none]", "254:0 enable=1 ctrl=auto", true},
		"disabled": {"[none]", "254:0 enable=0 ctrl=auto", false},
	} {
		root := t.TempDir()
		queue := filepath.Join(root, "sda/queue")
		if err := errors.Join(os.MkdirAll(queue, 0o700), os.WriteFile(filepath.Join(queue, "scheduler"), []byte(c.scheduler), 0o600),
			os.WriteFile(filepath.Join(root, "io.cost.qos"), []byte(c.qos), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := goesByWeights(root, root); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// disk is one of the host's.
func disk(t *testing.T) specs.LinuxBlockIODevice {
	t.Helper()
	found, _ := filepath.Glob("/sys/block/*/dev")
	for _, path := range found {
		text, _ := os.ReadFile(path)
		var device specs.LinuxBlockIODevice
		if _, err := fmt.Sscanf(string(text), "%d:%d", &device.Major, &device.Minor); err == nil {
			return device
		}
	}
	t.Fatal("the host has no disk")
	return specs.LinuxBlockIODevice{}
}

// The group of a VM has the limits of input and output from the start and after an update; a
// disk that is not there is an error that leaves nothing.
func TestIOLimitsHold(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	path, device := fmt.Sprintf("/msb-test/io-%d", os.Getpid()), disk(t)
	defer removeParents()
	limit := func(device specs.LinuxBlockIODevice, rate uint64) *specs.LinuxResources {
		return &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: device, Rate: rate}},
		}}
	}
	group, err := Enter(path, limit(device, 1<<20), 0)
	if err != nil {
		t.Fatal(err)
	}
	has := func(rate uint64) {
		t.Helper()
		got := setting(t, path, "blkio", "blkio.throttle.write_bps_device", "io.max")
		if !strings.HasPrefix(got, number(device)) || !strings.Contains(got, fmt.Sprint(rate)) {
			t.Errorf("limit %q, want %d", got, rate)
		}
	}
	has(1 << 20)
	if err := group.Update(limit(device, 2<<20), 0); err != nil {
		t.Error(err)
	}
	has(2 << 20)
	if err := group.Close(); err != nil {
		t.Error(err)
	}
	_, err = Enter(path, limit(block(4000, 1), 1), 0)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(fmt.Sprint(err), "blockIO.throttleWriteBpsDevice") {
		t.Errorf("a disk that is not there: %v", err)
	}
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A weight that nothing goes by is told in one line of the log.
func TestIOLimitsMissed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	var lines bytes.Buffer
	log.L.Logger.SetOutput(&lines)
	defer log.L.Logger.SetOutput(os.Stderr)
	path := fmt.Sprintf("/msb-test/missed-%d", os.Getpid())
	defer removeParents()
	group, err := Enter(path, &specs.LinuxResources{Unified: map[string]string{"io.nonsense": "1"}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Close(); err != nil {
		t.Error(err)
	}
	if got := lines.String(); strings.Count(got, "unified io.nonsense (the host") != 1 {
		t.Errorf("logged %q", got)
	}
}

// A hierarchy of version 1 that this process is in and that is not mounted here, as that of a
// container that runs systemd, changes nothing.
func TestHierarchyNotMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	named, err := os.MkdirTemp("", "test-hierarchy")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(named)
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cgroup.procs"); err != nil {
		t.Logf("version 2, which has one hierarchy: %v", err)
		return
	}
	path := fmt.Sprintf("/msb-test/unmounted-%d", os.Getpid())
	defer removeParents()
	err = thread.Run(func() error {
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			// It lives on after the unmount, as long as somebody has it mounted elsewhere.
			unix.Mount("cgroup", named, "cgroup", 0, "none,name=msbtest"), unix.Unmount("/sys/fs/cgroup/freezer", unix.MNT_DETACH)); err != nil {
			return err
		}
		hold, err := os.Open(named) // keeps the hierarchy
		if err != nil {
			return err
		}
		defer hold.Close()
		if err := unix.Unmount(named, unix.MNT_DETACH); err != nil {
			return err
		}
		if text := membership(t); !strings.Contains(text, "name=msbtest:/") || !strings.Contains(text, "freezer:/") {
			t.Errorf("the hierarchies are not there: %s", text)
		}
		group, err := Enter(path, nil, 0)
		if err != nil {
			return err
		}
		return group.Close()
	})
	if err != nil {
		t.Error(err)
	}
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
