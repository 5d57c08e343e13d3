package spec

import (
	"slices"
	"strings"
)

// Annotations that say for all file mounts of a container what the options
// x-msb.metadata and x-msb.update say for one.
const (
	AnnotationMetadata = annotationPrefix + "file-mounts.metadata"
	AnnotationUpdate   = annotationPrefix + "file-mounts.update"
)

// AnnotationSockets says for all directories that a container mounts what the option
// x-msb.sockets says for one.
const AnnotationSockets = annotationPrefix + "mounts.sockets"

// optionPrefix is that of msb's own mount options. Other options that begin with
// x- are for others, and passed over as fstab(5) says.
const optionPrefix = "x-msb."

// FileOptions are how a mounted file behaves. They mean nothing to a directory, except for
// NoSockets, which means nothing to a file.
type FileOptions struct {
	// HostMetadata lets mode, owner, times and extended attributes that the guest
	// sets reach the host's inode, as with runc.
	HostMetadata bool
	// Follow lets the guest's next open see a file that was renamed over the
	// source on the host.
	Follow bool
	// NoSockets leaves sockets of the host in a directory alone.
	NoSockets bool
	// Asked is the mount's own option that only a file can have, if there is one, and
	// AskedOfDir the one that only a directory can.
	Asked, AskedOfDir string
}

// setting is one that has two words.
type setting struct {
	annotation, option string
	words              [2]string // the default first
	set                func(*FileOptions, bool)
}

var settings = []setting{
	{
		AnnotationMetadata, optionPrefix + "metadata",
		[2]string{"guest", "host"},
		func(o *FileOptions, second bool) { o.HostMetadata = second },
	},
	{
		AnnotationUpdate, optionPrefix + "update",
		[2]string{"pinned", "follow"},
		func(o *FileOptions, second bool) { o.Follow = second },
	},
	{
		AnnotationSockets, optionPrefix + "sockets",
		[2]string{"on", "off"},
		func(o *FileOptions, second bool) { o.NoSockets = second },
	},
}

// onlyFiles are settings that a directory cannot have: its metadata is the host's,
// and what is renamed over it is another directory.
var onlyFiles = []string{optionPrefix + "metadata=guest", optionPrefix + "update=follow"}

// onlyDirs are settings that a file cannot have.
var onlyDirs = []string{optionPrefix + "sockets=off"}

func (s setting) apply(options *FileOptions, value string) bool {
	i := slices.Index(s.words[:], value)
	if i >= 0 {
		s.set(options, i == 1)
	}
	return i >= 0
}

// fileOptions are what annotations say for all of a container's mounts.
func fileOptions(annotations map[string]string) (options FileOptions, _ error) {
	for _, s := range settings {
		if value, given := annotations[s.annotation]; given && !s.apply(&options, value) {
			return FileOptions{}, invalid("annotation %s: %q is neither %s nor %s", s.annotation, value, s.words[0], s.words[1])
		}
	}
	return options, nil
}

// applyOwn takes in one of msb's own mount options.
func (o *FileOptions) applyOwn(destination, option string) error {
	name, value, _ := strings.Cut(option, "=")
	for _, s := range settings {
		if s.option != name {
			continue
		}
		if !s.apply(o, value) {
			return invalid("mount %s: option %s: %q is neither %s nor %s", destination, name, value, s.words[0], s.words[1])
		}
		switch {
		case isAny(option, onlyFiles...):
			o.Asked = option
		case isAny(option, onlyDirs...):
			o.AskedOfDir = option
		}
		return nil
	}
	return invalid("mount %[1]s: unknown option %[2]q; msb has %[3]smetadata=guest|host, %[3]supdate=pinned|follow, %[3]ssockets=on|off and %[3]shide=PATH", destination, name, optionPrefix)
}

// checkFile refuses what excludes each other.
func (b *Bind) checkFile() error {
	if b.Files.Follow && b.Files.HostMetadata && !b.ReadOnly {
		return unsupported("mount %s: a file that is followed (x-msb.update=follow) keeps what the guest sets of its metadata in the VM; leave out x-msb.metadata=host, or mount it read-only", b.Destination)
	}
	return nil
}

// forOthers tells an option that is for somebody else: neither the kernel nor crun
// would take it (fstab(5), mount(8), "x-").
func forOthers(option string) bool {
	return strings.HasPrefix(option, "x-") || strings.HasPrefix(option, "X-")
}
