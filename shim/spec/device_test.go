package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// devices are those of every container, and others by their names.
func everyDevice(others ...specs.LinuxDevice) (all []specs.LinuxDevice) {
	for _, d := range everyContainers {
		all = append(all, specs.LinuxDevice{Path: fmt.Sprintf("/dev/%d-%d", d.major, d.minor), Type: d.kind, Major: d.major, Minor: d.minor})
	}
	return append(all, others...)
}

func hostDevice(path, kind string, major, minor int64) specs.LinuxDevice {
	return specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor}
}

var (
	sda         = hostDevice("/dev/sda", "b", 8, 0)
	loop0       = hostDevice("/dev/loop0", "b", 7, 0)
	loop9       = hostDevice("/dev/loop9", "b", 7, 9)
	control     = hostDevice("/dev/loop-control", "c", 10, 237)
	kmsg        = hostDevice("/dev/kmsg", "c", 1, 11)
	fuse        = hostDevice("/dev/fuse", "c", 10, 229)
	denyAll     = specs.LinuxDeviceCgroup{Access: "rwm"}
	allowAll    = specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	allowBlocks = specs.LinuxDeviceCgroup{Allow: true, Type: "b", Access: "rwm"}
	allowChars  = specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "rwm"}
	allowSome   = specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: new(int64(8)), Minor: new(int64(0)), Access: "rwm"}
)

// A privileged container goes without the host's devices, and its client is told; a block device
// that is asked for is given, any other is refused.
func TestDevices(t *testing.T) {
	for name, c := range map[string]struct {
		devices []specs.LinuxDevice
		rules   []specs.LinuxDeviceCgroup
		guest   string
		missed  string
		blocks  string // with what rules allow
		refused string
	}{
		"none":                   {nil, []specs.LinuxDeviceCgroup{denyAll}, "", "", "", ""},
		"every kernel's":         {[]specs.LinuxDevice{fuse}, nil, "/dev/fuse", "", "", ""},
		"privileged by Docker":   {everyDevice(sda, loop0, kmsg), []specs.LinuxDeviceCgroup{denyAll, allowSome, allowAll}, "/dev/loop0 /dev/kmsg", "/dev/sda", "", ""},
		"privileged by CRI":      {everyDevice(loop9, fuse), []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Major: new(int64(-1)), Minor: new(int64(-1)), Access: "rwm"}}, "/dev/fuse", "/dev/loop9", "", ""},
		"privileged by BuildKit": {[]specs.LinuxDevice{control, loop0, loop9}, []specs.LinuxDeviceCgroup{denyAll, allowChars, allowBlocks}, "/dev/loop-control /dev/loop0", "/dev/loop9", "", ""},
		"without the host's":     {nil, []specs.LinuxDeviceCgroup{allowAll}, "", "", "", ""},
		"a FIFO":                 {[]specs.LinuxDevice{{Path: "/dev/fifo", Type: "p"}}, nil, "/dev/fifo", "", "", ""},
		"a relative path":        {[]specs.LinuxDevice{hostDevice("dev/x", "c", 10, 229)}, nil, "/dev/x", "", "", ""},
		"asked for":              {[]specs.LinuxDevice{sda}, []specs.LinuxDeviceCgroup{denyAll, allowSome}, "/dev/sda", "", "/dev/sda rwm", ""},
		"asked for, all allowed": {[]specs.LinuxDevice{sda}, []specs.LinuxDeviceCgroup{allowAll}, "/dev/sda", "", "/dev/sda rwm", ""},
		"all, not allowed":       {everyDevice(sda), []specs.LinuxDeviceCgroup{denyAll}, "/dev/sda", "", "/dev/sda ", ""},
		"all, blocks allowed":    {everyDevice(sda), []specs.LinuxDeviceCgroup{denyAll, allowBlocks}, "/dev/sda", "", "/dev/sda rwm", ""},
		"all, denied again":      {everyDevice(sda), []specs.LinuxDeviceCgroup{allowAll, denyAll}, "/dev/sda", "", "/dev/sda ", ""},
		"all, only to read":      {everyDevice(sda), []specs.LinuxDeviceCgroup{{Allow: true, Access: "r"}}, "/dev/sda", "", "/dev/sda r", ""},
		"no rules":               {everyDevice(sda), nil, "/dev/sda", "", "/dev/sda ", ""},
		"a loop device":          {[]specs.LinuxDevice{loop0}, []specs.LinuxDeviceCgroup{denyAll}, "/dev/loop0", "", "/dev/loop0 ", ""},
		"a loop device, allowed": {[]specs.LinuxDevice{loop0}, []specs.LinuxDeviceCgroup{allowAll}, "/dev/loop0", "", "/dev/loop0 rwm", ""},
		"a character device":     {[]specs.LinuxDevice{hostDevice("/dev/x", "c", 10, 77)}, []specs.LinuxDeviceCgroup{allowAll}, "", "", "", "/dev/x"},
		"one of many":            {[]specs.LinuxDevice{fuse, loop9}, []specs.LinuxDeviceCgroup{denyAll, allowSome, {Allow: true, Type: "b", Major: new(int64(7)), Access: "rm"}}, "/dev/fuse /dev/loop9", "", "/dev/loop9 rm", ""},
		"a block device null":    {[]specs.LinuxDevice{hostDevice("/dev/x", "b", 1, 3)}, nil, "/dev/x", "", "/dev/x ", ""},
	} {
		plan, err := New(container(func(s *specs.Spec) {
			s.Linux.Devices, s.Linux.Resources = c.devices, &specs.LinuxResources{Devices: c.rules}
		}), "/bundle")
		if c.refused != "" {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "device "+c.refused+" is the host's") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var guest []string
		for _, device := range plan.devices {
			if !slices.Contains(everyContainers, deviceOf(device)) {
				guest = append(guest, device.Path)
			}
		}
		var blocks []string
		for _, block := range plan.BlockDevices {
			blocks = append(blocks, block.Path+" "+block.access)
			if block.ReadOnly == strings.Contains(block.access, "w") {
				t.Errorf("%s: %+v", name, block)
			}
		}
		if got := strings.Join(blocks, " "); got != c.blocks {
			t.Errorf("%s: block devices %q, want %q", name, got, c.blocks)
		}
		if got := strings.Join(guest, " "); got != c.guest {
			t.Errorf("%s: the guest has %q, want %q", name, got, c.guest)
		}
		if missed := strings.Join(plan.Missed(), ""); c.missed == "" && missed != "" || !strings.Contains(missed, c.missed) {
			t.Errorf("%s: missed %q, want %q", name, missed, c.missed)
		}
	}
}

// In the guest a block device has the numbers that it has there, and what its rules allow.
func TestGuestBlocks(t *testing.T) {
	given := []specs.LinuxDevice{fuse, sda, loop9}
	rules := []specs.LinuxDeviceCgroup{denyAll, allowSome}
	guest := guestSpec(t, Places{BlockDevices: []uint32{1001, 1002}}, func(s *specs.Spec) {
		s.Linux.Devices, s.Linux.Resources = given, &specs.LinuxResources{Devices: rules}
	})
	for i, minor := range []int64{1001, 1002} {
		if d := guest.Linux.Devices[i+1]; d.Type != "b" || d.Major != 7 || d.Minor != minor {
			t.Errorf("%+v", d)
		}
	}
	in := guest.Linux.Resources.Devices
	if len(in) != 3 || !in[2].Allow || *in[2].Major != 7 || *in[2].Minor != 1001 || in[2].Access != "rwm" {
		t.Errorf("rules: %+v", in) // loop9 has none
	}
	if given[1].Major != 8 {
		t.Error("the configuration was changed")
	}
}

func TestBlockDevicesRefused(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec){
		"there is no block device 5000:0": func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{hostDevice("/dev/x", "b", 5000, 0)} },
		"there is no block device 8:-1":   func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{hostDevice("/dev/x", "b", 8, -1)} },
		"are not given to containers with a user namespace": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{sda}
			inUserNamespace("", []specs.LinuxIDMapping{{Size: 1}}, []specs.LinuxIDMapping{{Size: 1}})(s)
		},
	} {
		if _, err := New(container(change), "/bundle"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// However many devices there are and whatever their names, the log has one line.
func TestManyDevices(t *testing.T) {
	devices := everyDevice()
	for i := range 5000 {
		devices = append(devices, hostDevice("/dev/"+strings.Repeat("x", 4000), "b", 8, int64(i)))
	}
	plan, err := New(container(func(s *specs.Spec) {
		s.Linux.Devices, s.Linux.Resources = devices, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{allowAll}}
	}), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	missed := plan.Missed()
	if len(missed) != 1 || len(missed[0]) > 2000 || !strings.Contains(missed[0], "and 4980 more") {
		t.Errorf("%d lines, the first of %d bytes", len(missed), len(missed[0]))
	}
}

func TestDeviceRefused(t *testing.T) {
	for says, device := range map[string]specs.LinuxDevice{
		"a device without a path": hostDevice("", "c", 1, 5),
		"without a path":          hostDevice("/", "p", 0, 0),
		`the type "x"`:            hostDevice("/dev/x", "x", 1, 5),
		`the type ""`:             hostDevice("/dev/x", "", 1, 5),
	} {
		_, err := New(container(func(s *specs.Spec) {
			s.Linux.Devices, s.Linux.Resources = everyDevice(device), &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{allowAll}}
		}), "/bundle")
		refusedFor(t, err, says)
	}
}

// A configuration without rules for devices allows none but those that every container has.
func TestNoDeviceRules(t *testing.T) {
	allowed := []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for name, c := range map[string]struct {
		asked *specs.LinuxResources
		allow bool
	}{
		"no limits": {nil, false},
		"no rules":  {&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(5))}}, false},
		"a rule":    {&specs.LinuxResources{Devices: allowed}, true},
	} {
		guest := guestSpec(t, Places{}, func(s *specs.Spec) { s.Linux.Resources = c.asked })
		rules := guest.Linux.Resources.Devices
		if len(rules) != 1 || rules[0].Allow != c.allow || rules[0].Access != "rwm" || rules[0].Major != nil {
			t.Errorf("%s: %+v", name, rules)
		}
	}
}
