package spec

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A Bind is a file or directory of the host that the container is given.
type Bind struct {
	// Source is an absolute path of the host, for the kernel to walk: it need not be clean.
	Source string
	// Destination is the path in the container; for error messages.
	Destination string
	// ReadOnly is enforced on the host. As with runc, it does not extend to
	// mounts below the source unless RecursiveReadOnly is set.
	ReadOnly          bool
	RecursiveReadOnly bool
	// Recursive includes the mounts below the source ("rbind").
	Recursive bool
	// Slave lets mounts that the host makes below the source later appear.
	Slave bool
	// IDMap maps the owners of its files to those that the guest sees; with RecursiveIDMap
	// also those of the mounts below the source.
	IDMap          IDMap
	RecursiveIDMap bool
	// Files is how it behaves if it is a file.
	Files FileOptions
	// Hide are paths below a directory that the container is not given, and that must be
	// there. HideAny are those of which it is given none, wherever there is one.
	Hide, HideAny []string
	// Socket says that it must be a socket.
	Socket bool

	idmap   bool     // ids are to be mapped
	index   int      // in the spec's mounts
	options []string // for the mount in the guest
}

// local are the file systems that are the guest's own.
var local = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true,
}

// guestSources are paths of the host that mean the guest's own when they are
// bound: kernel interfaces, shared memory, and devices that every kernel has.
var guestSources = []string{procfs, sysfs}

const (
	procfs  = "/proc"
	devNull = "/dev/null"
	ptmx    = "/dev/ptmx" // a link that the runtime makes (pts(4))
)

var guestNodes = []string{devNull, "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm"}

// socketType is the type of a mount of a socket, for runtimes with VMs: containerd's
// conformance suite for shims and nerdbox (docs/socket-forwarding.md) have it. Here it is a
// bind of nothing but a socket.
const socketType = "uds"

// planMount decides what a mount is: a bind of something of the host, or (bind
// false) a file system of the guest's own, which crun makes there. Its destination is
// clean. users are the container's.
func planMount(mount specs.Mount, bundle string, files FileOptions, users IDMap) (_ Bind, isBind bool, _ error) {
	bind := Bind{Destination: mount.Destination, Files: files, IDMap: IDMap{mount.UIDMappings, mount.GIDMappings}}
	bind.Socket = mount.Type == socketType
	isBind = bind.Socket || asksForBind(mount)
	for _, option := range mount.Options {
		if err := bind.apply(option); err != nil {
			return Bind{}, false, err
		}
	}
	if err := bind.planIDMap(users); err != nil {
		return Bind{}, false, err
	}
	switch {
	case !isBind && !bind.IDMap.IsZero():
		return Bind{}, false, unsupported("mount %s: ids are mapped for files and directories of the host, not for %s: leave the mappings out", mount.Destination, mount.Type)
	case !isBind && local[mount.Type] && bind.Files != files:
		return Bind{}, false, invalid("mount %s: options %s… are for files of the host, not for %s: leave them out", mount.Destination, optionPrefix, mount.Type)
	case !isBind && local[mount.Type]:
		return bind, false, nil
	case !isBind:
		return Bind{}, false, unsupported("mount %s: file system type %q cannot be mounted in a microVM; msb binds files, directories and sockets and mounts %s",
			mount.Destination, mount.Type, "images of erofs and ext4, proc, sysfs, tmpfs, devpts, mqueue and cgroup")
	}
	if err := checkSource(mount); err != nil {
		return Bind{}, false, err
	}
	if err := bind.checkOptions(); err != nil {
		return Bind{}, false, err
	}
	bind.Source = absolute(bundle, mount.Source)
	switch {
	case bind.Source == sysfs+"/fs":
		return Bind{}, false, unsupported("mount %s: %s would show the control groups of the whole guest: bind %s or %s, where the container finds its own", mount.Destination, bind.Source, sysfs, groups)
	case ofProcess().MatchString(bind.Source):
		return Bind{}, false, unsupported("mount %s: %s is about a process of the host, which the guest does not have: bind what it leads to", mount.Destination, bind.Source)
	case hasPrefix(bind.Source, groups) && bind.Source != groups:
		return Bind{}, false, unsupported("mount %s: %s is a control group of the host, which the guest does not have: bind %s, where the container finds its own", mount.Destination, bind.Source, groups)
	}
	if err := bind.checkFile(); err != nil {
		return Bind{}, false, err
	}
	isGuests := isGuests(bind.Source)
	if path.IsAbs(mount.Source) {
		// The kernel walks through it: behind a symbolic link .. leads elsewhere than its text says,
		// and nothing but a directory has a name that ends with /.
		bind.Source = mount.Source
		isGuests = isGuests && !isAny("..", strings.Split(mount.Source, "/")...)
	}
	return bind, bind.Socket || !isGuests, nil
}

// planIDMap completes the mapping of ids. One that is asked for by an option alone is that
// of the container's user namespace (runtime-spec, config.md, "idmap").
func (b *Bind) planIDMap(users IDMap) error {
	if b.idmap && b.IDMap.IsZero() {
		if users.IsZero() {
			return invalid("mount %s: option idmap maps to the ids of a user namespace, and the container has none: give the mount mappings of its own", b.Destination)
		}
		b.IDMap = users
	}
	if b.IDMap.IsZero() {
		return nil
	}
	return b.IDMap.check("mount " + b.Destination)
}

// ofProcess are the paths of processes in /proc (proc(5)). In the guest they would be the
// agent's, or others'.
var ofProcess = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^/proc/([0-9]+|self|thread-self)(/|$)`) })

func isGuests(source string) bool {
	for _, dir := range guestSources {
		if hasPrefix(source, dir) {
			return true
		}
	}
	return isAny(source, guestNodes...)
}

// maxPath is the longest path that the kernel takes, in bytes, without the NUL
// (limits.h, PATH_MAX); maxOption is the longest mount option: they fill a page.
const (
	maxPath   = 4095
	maxOption = 4095
)

func checkSource(mount specs.Mount) error {
	switch {
	case len(mount.Source) > maxPath:
		return invalid("mount %s: the source has %d bytes; a path has %d at most", mount.Destination, len(mount.Source), maxPath)
	case mount.Source == "":
		return invalid("mount %s: the mount has no source", mount.Destination)
	case strings.ContainsRune(mount.Source, 0):
		return invalid("mount %s: the source contains a NUL byte", mount.Destination)
	}
	return nil
}

// cleanDestination is where in the container a mount is. It is clean, as with runc: crun puts no file
// at one that ends with /.
//
// Refused is, as with runc, what would be in the place of files that the guest's runtime reads, writes
// and makes with the container: of proc, /dev/null and /dev/ptmx. crun has no such check, and a mount
// on one of the last two would be without effect.
func cleanDestination(mount specs.Mount) (string, error) {
	asked := mount.Destination
	switch {
	case len(asked) > maxPath:
		return "", invalid("mount %s…: the destination has %d bytes; a path has %d at most", asked[:64], len(asked), maxPath)
	case !path.IsAbs(asked):
		return "", invalid("mount %q: the destination is not an absolute path", asked)
	case strings.ContainsRune(asked, 0):
		return "", invalid("mount %q: the destination contains a NUL byte", asked)
	case leadsOut(asked):
		return "", invalid("mount %s: the destination leads out of the container's root", asked)
	}
	destination, source, bound := path.Clean(asked), path.Clean(mount.Source), asksForBind(mount)
	switch {
	case destination == "/":
		return "", invalid("mount %s: the destination is the container's root itself", asked)
	case destination == ptmx || destination == devNull && !(bound && source == devNull):
		return "", invalid("mount %s: what is there has to be the device, which every container has: leave the mount out", destination)
	case !hasPrefix(destination, procfs) || isAny(destination, emulated...):
	case destination != procfs:
		return "", invalid("mount %s: nothing can be mounted in %s but at files that lxcfs has, such as /proc/cpuinfo: leave the mount out", destination, procfs)
	case bound && source != procfs || !bound && mount.Type != "proc":
		return "", invalid("mount %s: nothing but proc itself can be there: give the mount the type proc, or leave it out", destination)
	}
	return destination, nil
}

// leadsOut tells a path that is above the root somewhere on its way. One that is not is what
// path.Clean makes of it, as with runc.
func leadsOut(destination string) bool {
	depth := 0
	for part := range strings.SplitSeq(destination, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return true
		}
	}
	return false
}

// emulated are the files of /proc in whose place others may be, as with runc: those that lxcfs has.
var emulated = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
	"/proc/sys/crypto/fips_enabled", "/proc/sys/kernel/ns_last_pid",
}

// apply takes in one mount option (runtime-spec, config.md, "Linux mount
// options"). Those that are not about sharing pass on to crun, which knows
// those of mountOptions.
func (b *Bind) apply(option string) error {
	switch {
	case len(option) > maxOption:
		return invalid("mount %s: option %s… has %d bytes; the kernel takes %d at most", b.Destination, option[:64], len(option), maxOption)
	case strings.HasPrefix(option+"=", hideOption+"="):
		return b.hide(option)
	case strings.HasPrefix(option, optionPrefix):
		return b.Files.applyOwn(b.Destination, option)
	case forOthers(option):
		return nil
	}
	switch option {
	case "bind":
		return nil
	case "rbind":
		b.Recursive = true
		return nil
	case "ro":
		b.ReadOnly = true
	case "rro":
		b.ReadOnly, b.RecursiveReadOnly = true, true
	case "rw": // what is recursive is applied last
		b.ReadOnly = b.RecursiveReadOnly
	case "rrw":
		b.ReadOnly, b.RecursiveReadOnly = false, false
	case "slave", "rslave":
		b.Slave = true
		return nil
	case "private", "rprivate", "unbindable", "runbindable":
		b.Slave = false
		return nil
	case "shared", "rshared":
		return unsupported("mount %s: %s would carry the container's mounts to the host, which a microVM cannot do; use rslave or rprivate", b.Destination, option)
	case "idmap", "ridmap":
		b.idmap, b.RecursiveIDMap = true, option == "ridmap"
		return nil
	case "tmpcopyup": // for a tmpfs; runc passes it over
		return nil
	}
	b.options = append(b.options, option)
	return nil
}

// checkOptions refuses what would be for the file system, as runc does: crun passes it over.
func (b *Bind) checkOptions() error {
	for _, option := range b.options {
		if option != "" && !isAny(option, mountOptions...) {
			return invalid("mount %s: a bind has no option %s, and hands none to the file system: leave it out", b.Destination, shorten(option))
		}
	}
	return nil
}

// recursive are options of mounts that are there already, which no new file system is: runc
// passes them over where nothing is bound.
var recursive = []string{
	"ratime", "rdev", "rdiratime", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid",
	"rnosymfollow", "rrelatime", "rro", "rrw", "rstrictatime", "rsuid", "rsymfollow",
}

// propagations are ways in which mounts propagate (mount_namespaces(7)).
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}

// crunOptions are the options of a mount in the guest, as crun is to be told them: it makes an
// error or something else of some that runc passes over. Of several propagations crun takes none:
// the last one holds, as nothing has propagated yet. Where nothing is bound, crun would apply what
// is recursive. It refuses tmpcopyup of all but a tmpfs, and does not know ridmap; owners are mapped
// on the host.
func crunOptions(mount specs.Mount) []string {
	bound := asksForBind(mount)
	var last string
	for _, option := range mount.Options {
		if isAny(option, propagations...) {
			last = option
		}
	}
	return slices.DeleteFunc(slices.Clone(mount.Options), func(option string) bool {
		switch {
		case isAny(option, recursive...):
			return !bound
		case isAny(option, propagations...):
			return option != last
		case option == "tmpcopyup":
			return bound || mount.Type != "tmpfs"
		}
		return forOthers(option) || isAny(option, "idmap", "ridmap")
	})
}

// guestOptions are those of its mount in the guest.
func (b *Bind) guestOptions() []string {
	// Mounts below the share are found by the guest's kernel when they are
	// first walked into, so there is nothing to recurse into yet. Propagation
	// has been seen to on the host.
	options := append([]string{"rbind"}, b.options...)
	if b.Slave {
		return append(options, "rslave")
	}
	return append(options, "rprivate")
}
