package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A runcOption is a setting of the runc shim (containerd, runc/options/oci.proto). Clients send
// them to other runtimes, too, and administrators copy them from runc's entry in containerd's
// configuration.
type runcOption struct {
	flag   string // of ctr run, if one sets it
	remedy string // empty if msb does what it says anyway
}

// runcOptions are by their names in containerd's configuration.
var runcOptions = map[string]runcOption{
	// The control group is made where systemd would have made it.
	"SystemdCgroup": {},
	// Whose the pipes are, the container's own configuration also says.
	"IoUid": {}, "IoGid": {},
	// Where the shim is, containerd sends to every one.
	"TaskApiAddress": {}, "TaskApiVersion": {},
	"NoPivotRoot":   {"--no-pivot", "the VM's jail and the guest's crun need pivot_root(2)"},
	"NoNewKeyring":  {"", "a container has a session keyring of its own, in the guest"},
	"ShimCgroup":    {"", "the shim is in the control group of its VM (linux.cgroupsPath; ctr run --cgroup)"},
	"BinaryName":    {"--runc-binary", "the runtime, crun, is in the guest; the setting kit names another guest"},
	"Root":          {"--runc-root", "the runtime, crun, is in the guest, and keeps its state there"},
	"CriuPath":      {"", criu},
	"CriuImagePath": {"", criu},
	"CriuWorkPath":  {"", criu},
}

const criu = "a VM cannot be checkpointed"

// refuse says which option it is and what to do.
func (o runcOption) refuse(name string) error {
	if o.flag != "" {
		name = fmt.Sprintf("%s (ctr run %s)", name, o.flag)
	}
	return fmt.Errorf("runtime option %s is runc's, and msb cannot do what it says, because %s: leave it out", name, o.remedy)
}

// findRunc finds an option, however its name is capitalized.
func findRunc(name string) (known string, option runcOption, found bool) {
	for known, option := range runcOptions {
		if strings.EqualFold(known, name) {
			return known, option, true
		}
	}
	return name, runcOption{remedy: "it does not know it"}, false
}

// checkRunc refuses options of runc that msb cannot keep.
func checkRunc(given *runcoptions.Options) (err error) {
	given.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		name, option, _ := findRunc(strings.ReplaceAll(string(field.Name()), "_", "")) // no_pivot_root is NoPivotRoot
		if option.remedy != "" {
			err = option.refuse(name)
		}
		return err == nil
	})
	return err
}

// withoutRunc takes runc's options out of a section of containerd's configuration, which its
// CRI plugin passes on as it is, and refuses those that msb cannot keep. What is not TOML is
// left for Parse.
func withoutRunc(body []byte) ([]byte, error) {
	var settings map[string]any
	if toml.Unmarshal(body, &settings) != nil {
		return body, nil
	}
	all := len(settings)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		name, option, found := findRunc(key)
		if !found {
			continue
		}
		if option.remedy != "" && !reflect.ValueOf(settings[key]).IsZero() {
			return nil, option.refuse(name)
		}
		delete(settings, key)
	}
	if len(settings) == all {
		return body, nil
	}
	return toml.Marshal(settings)
}
