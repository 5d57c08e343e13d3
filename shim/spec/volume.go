package spec

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/image"
)

// A Volume is a file of the host that holds a file system. The guest mounts it, and the
// container is given what is in it.
type Volume struct {
	Image image.Image
	// Destination is the path in the container; for error messages.
	Destination string

	index   int      // in the spec's mounts
	options []string // for the mount in the guest
}

// ofMount are the options that are one mount's, whatever other mounts of the file system have
// (runtime-spec, config.md, "Linux mount options"; mount(2), "Additional mount flags"). All
// others are the file system's, which several containers may have.
var ofMount = []string{
	"suid", "nosuid", "dev", "nodev", "exec", "noexec", "symfollow", "nosymfollow",
	"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
	"private", "rprivate", "slave", "rslave", "unbindable", "runbindable",
}

// managerPrefix is that of options for containerd's mount manager, which sees no mounts of a
// container's configuration (containerd, docs/mounts.md).
const managerPrefix = "X-containerd."

// isVolume tells a mount of an image from all others.
func isVolume(mount specs.Mount) bool { return !asksForBind(mount) && image.IsType(mount.Type) }

// planVolume plans the mount of an image. Its destination is clean. A relative path is one of the bundle.
func planVolume(m specs.Mount, bundle string) (Volume, error) {
	if err := checkSource(m); err != nil {
		return Volume{}, err
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return Volume{}, unsupported("mount %s: ids are mapped for files and directories of the host, not for %s: leave the mappings out", m.Destination, m.Type)
	}
	v := Volume{Destination: m.Destination}
	var options []string
	var err error
	v.Image, options, err = image.Of(mount.Mount{Type: m.Type, Source: absolute(bundle, m.Source), Options: m.Options})
	if err != nil {
		return Volume{}, fmt.Errorf("mount %s: %w", m.Destination, err)
	}
	for _, option := range options {
		switch {
		case strings.HasPrefix(option, optionPrefix):
			return Volume{}, invalid("mount %s: options %s… are for files and directories of the host, not for %s: leave %s out", m.Destination, optionPrefix, m.Type, option)
		case option == "defaults", forOthers(option) && !strings.HasPrefix(option, managerPrefix):
		case option == "rro":
			v.Image.ReadOnly = true
		case isAny(option, ofMount...):
			v.options = append(v.options, option)
		default:
			return Volume{}, unsupported("mount %s: option %s of an image is not supported; msb takes ro, rw and those of a mount, such as nosuid, nodev, noexec and noatime: leave it out", m.Destination, shorten(option))
		}
	}
	return v, nil
}

// guestOptions are those of its mount in the guest.
func (v Volume) guestOptions() []string {
	options := append([]string{"bind", "rprivate"}, v.options...)
	if v.Image.ReadOnly {
		return append(options, "ro")
	}
	return options
}
