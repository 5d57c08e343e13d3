package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	shimspec "github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// contradictions are options of which the last one wins; with them the reverse order is tried.
var contradictions = [][]string{
	{"ro", "rw"},
	{"noexec", "exec"},
	{"nosuid", "suid"},
	{"nodev", "dev"},
	{"noatime", "atime"},
	{"noatime", "relatime"},
	{"noatime", "strictatime"},
	{"relatime", "strictatime"},
	{"nodiratime", "diratime"},
	{"nosymfollow", "symfollow"},
	{"sync", "async"},
	{"lazytime", "nolazytime"},
	{"iversion", "noiversion"},
	{"silent", "loud"},
	{"mand", "nomand"},
	{"rro", "rrw"},
	{"rnoexec", "rexec"},
	{"rnosuid", "rsuid"},
	{"rnodev", "rdev"},
	{"rnoatime", "ratime"},
	{"rnoatime", "rrelatime"},
	{"rnoatime", "rstrictatime"},
	{"rrelatime", "rnorelatime"},
	{"rstrictatime", "rnostrictatime"},
	{"rnodiratime", "rdiratime"},
	{"rnosymfollow", "rsymfollow"},
	{"ro", "rrw"},
	{"rro", "rw"},
	{"noexec", "rexec"},
	{"nosuid", "rsuid"},
	{"private", "slave"},
	{"rslave", "rprivate"},
}

// together are options that do not contradict each other.
var together = [][]string{
	{"ro", "nosuid", "nodev", "noexec", "noatime"},
	{"rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"},
	{"noatime", "nodiratime"},
	{"ro", "sync", "dirsync"},
	{"nosuid", "strictatime"},
	{"ro", "remount"},
}

// tmpfsData are options of tmpfs's own (tmpfs(5)), which the runtime hands to the kernel.
var tmpfsData = [][]string{
	{"size=1m"},
	{"size=64k", "mode=1777"},
	{"mode=700"},
	{"mode=0755", "uid=5", "gid=6"},
	{"nr_inodes=100"},
	{"nr_blocks=10"},
	{"huge=never"},
	{"noswap"},
	{"inode32"},
	{"size=1m", "ro", "noexec"},
	{"mpol=local"},
	{"nosuch"},
	{"size=many"},
	{"mode=9"},
	{""},
}

// bindData are what a bind has no use for.
var bindData = [][]string{{"nosuch"}, {"size=1m"}, {""}, {"rshared"}, {"shared"}}

// belowIt is the directory of a bind on which there is a mount.
const belowIt = "/below"

// An asked is a mount that is tried.
type asked struct{ kind, options string }

// name is where it is mounted.
func (a asked) name() string {
	if a.options == "" {
		return a.kind + "/an-empty-one"
	}
	return a.kind + "/" + strings.ReplaceAll(a.options, ",", "+")
}

// mount is what the configuration says. shared is the directory of binds.
func (a asked) mount(shared string) specs.Mount {
	mount := specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/" + a.name(), Options: strings.Split(a.options, ",")}
	if a.kind == "bind" {
		mount.Type, mount.Source, mount.Options = "bind", shared, append([]string{"rbind"}, mount.Options...)
	}
	return mount
}

// askedMounts are all that are tried.
func askedMounts() (all []asked) {
	for _, kind := range []string{"tmpfs", "bind"} {
		of := func(options ...string) { all = append(all, asked{kind, strings.Join(options, ",")}) }
		for _, option := range shimspec.Features().MountOptions {
			of(option)
		}
		for _, pair := range contradictions {
			of(pair...)
			of(pair[1], pair[0])
		}
		for _, options := range together {
			of(options...)
		}
	}
	for _, options := range tmpfsData {
		all = append(all, asked{"tmpfs", strings.Join(options, ",")})
	}
	for _, options := range bindData {
		all = append(all, asked{"bind", strings.Join(options, ",")})
	}
	return all
}

// refusedMounts are those with which a container does not start under one of the two, by kind:
// each has containers of its own. All others are in one.
var refusedMounts = map[string][]string{
	"tmpfs": {
		"bind", "rbind", "defaults", "idmap", "ridmap", "remount", "ro,remount", "mpol=local", "nosuch", "size=many", "mode=9",
	},
	"bind": {
		"defaults", "idmap", "ridmap", "remount", "ro,remount", "rnoatime,rstrictatime", "rstrictatime,rnoatime",
		"nosuch", "size=1m", "shared", "rshared",
	},
}

// optionReasons are why a mount is another under msb.
var optionReasons = map[string]string{
	"tmpfs/defaults":             "runc lists the option and hands it to the kernel, which refuses it; it asks for nothing",
	"bind/defaults":              "runc lists the option and refuses it; it asks for nothing",
	"bind/rnoatime+rstrictatime": "the last one wins; runc asks the kernel for both at once, which refuses that",
	"bind/rstrictatime+rnoatime": "the last one wins; runc asks the kernel for both at once, which refuses that",
	"bind/rnoatime+rrelatime":    "the last one wins; runc leaves the first",
	"bind/rrw+ro":                "the last one wins; with runc a recursive one does",
	"tmpfs/mpol=local":           "the guest has one node of memory, and a kernel that knows no more",
	"bind/shared":                "the container's mounts do not get out of the VM",
	"bind/rshared":               "the container's mounts do not get out of the VM",
}

// inherited are binds whose options the mount below has, too, though they are not recursive: the
// guest's kernel makes it when it is walked into first, with those of the mount above.
var inherited = []string{
	"noatime", "nodev", "nodiratime", "noexec", "nosuid", "nosymfollow", "strictatime",
	"dev+nodev", "exec+noexec", "suid+nosuid", "symfollow+nosymfollow", "diratime+nodiratime", "atime+noatime", "relatime+noatime", "noatime+relatime",
	"noatime+strictatime", "strictatime+noatime", "relatime+strictatime", "strictatime+relatime", "noatime+nodiratime", "nosuid+strictatime",
}

// Each mount option does what it does under runc: alone, with its contrary in both orders, and
// with others, on a tmpfs, and on a bind of a directory with a mount below it.
func TestMountOptions(t *testing.T) {
	nothingLeft(t)
	shared := t.TempDir()
	below := filepath.Join(shared, belowIt)
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(below, unix.MNT_DETACH)

	// /etc is of the image; with the option a tmpfs there has its files.
	mounts := []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/etc", Options: []string{"tmpcopyup"}}}
	var refused []asked
	for _, a := range askedMounts() {
		if slices.Contains(refusedMounts[a.kind], a.options) {
			refused = append(refused, a)
		} else {
			mounts = append(mounts, a.mount(shared))
		}
	}
	theirs, ours := bothSides(t)
	results := map[string]map[string]string{}
	for _, side := range []side{theirs, ours} {
		c := side.alone().start(t, oci.WithMounts(mounts))
		seen := mountsSeen(c.must("ls /bind/*/below >/dev/null; cat /proc/self/mountinfo"))
		seen["files of /etc"] = c.must("cd /etc; find . -exec stat -c '%n %f %u:%g %s' {} + | sort; touch new")
		for line := range strings.Lines(c.must("cd /; for dir in tmpfs/*r[ow]* bind/*r[ow]*; do touch $dir/new 2>/dev/null; echo $dir $?; done")) {
			name, code, _ := strings.Cut(strings.TrimSpace(line), " ")
			seen["touch in "+name] = code
		}
		for _, a := range refused {
			o := side.run(t, oci.WithMounts([]specs.Mount{a.mount(shared)}), "true")
			seen[a.name()] = "starts"
			if o.failed != "" {
				seen[a.name()] = "refused"
			}
		}
		results[side.runtime] = seen
	}
	reasons := maps.Clone(optionReasons)
	reasons["touch in bind/rrw+ro"] = reasons["bind/rrw+ro"]
	reasons["bind/rnoatime+rrelatime"+belowIt] = reasons["bind/rnoatime+rrelatime"]
	for _, name := range inherited {
		reasons["bind/"+name+belowIt] = "the mount below has the options of the one above it"
	}
	compareBeside(t, results[theirs.runtime], results[ours.runtime], reasons)
}

// propagation is a mount's among its optional fields (proc_pid_mountinfo(5)); the numbers of peer
// groups are each kernel's own.
var propagation = regexp.MustCompile(`(shared|master|propagate_from):[0-9]+`)

// mountsSeen are the options of the mounts that are tried, in a container's mountinfo: of a tmpfs
// also type, source and those of the superblock. A bind's file system is another.
func mountsSeen(mountinfo string) map[string]string {
	seen := make(map[string]string)
	for line := range strings.Lines(mountinfo) {
		mount, filesystem, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields := strings.Fields(mount)
		name := strings.TrimPrefix(fields[4], "/")
		state := strings.Join(append(fields[5:6], propagation.FindAllString(strings.Join(fields[6:], " "), -1)...), " ")
		state = propagation.ReplaceAllString(state, "$1")
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "tmpfs":
			state += " - " + filesystem
		case "bind":
		default:
			continue
		}
		if before, twice := seen[name]; twice {
			state = before + ", over it " + state
		}
		seen[name] = state
	}
	return seen
}
