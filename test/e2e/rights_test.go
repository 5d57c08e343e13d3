package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/test/rights"
)

// runcRuntime is what rights are compared with.
const runcRuntime = "io.containerd.runc.v2"

// ranges is the user namespace of a container, and how it sees the owners of a volume's files:
// as they are on the host.
var ranges = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}

// What every identity may do to every kind of file is what it may with runc: in mounted
// directories, mounted files and the root file system, in and out of a user namespace
// (test/rights). One run has both runtimes.
func TestVM01VM02Permissions(t *testing.T) {
	for name, users := range map[string]bool{"the host's users": false, "a user namespace": true} {
		t.Run("VM03 "+name, func(t *testing.T) {
			nothingLeft(t)
			theirs, ours := newMatrix(t, runcRuntime, users), newMatrix(t, harness.Runtime, users)
			theirs.run(t)
			ours.run(t)
			for _, place := range tried(users) {
				compare(t, place.name, theirs.results[place.name], ours.results[place.name])
			}
			for _, place := range tried(users) {
				if dir := place.source(); dir != "" && place.name != shielded {
					compareHost(t, dir, theirs.look(t, dir), ours.look(t, dir))
				}
			}
			// Of files with metadata of their own (docs/file-mounts.md) the host sees data change, and
			// the set-id bits go that another content must not have.
			for name, state := range ours.look(t, "rw") {
				had, has, same := setIDs(ours.before[name], state)
				_, list, _ := strings.Cut(state, " ")
				_, listBefore, _ := strings.Cut(ours.before[name], " ")
				if !same || has&^had != 0 || list != listBefore {
					t.Errorf("the mounted file %s is %q on the host, and was %q", name, state, ours.before[name])
				}
			}
			if ours.posixTried() {
				comparePosix(t, theirs.posix, ours.posix)
			}
		})
	}
}

// A place is where files are.
type place struct {
	name, command, dir string
}

var places = []place{
	{"a directory", rights.Tree, "/tree"},
	{"the root file system", rights.Made, "/root-tree"},
	{shielded, rights.Mounts, "/files/rw"},
	{"a file, x-msb.metadata=host", rights.Mounts, "/files/host"},
	{"a read-only file", rights.Mounts, "/files/ro"},
}

// source is the name of the host's directory of what is mounted there; the root file system has
// none.
func (p place) source() string {
	if p.command == rights.Made {
		return ""
	}
	return filepath.Base(p.dir)
}

const shielded = "a file"

// whole tells whether this run tries all. An emulated host is slow.
func whole() bool { return harness.FewEmulated(0, 1) == 1 }

// tried are the places that this run tries. The server that serves the others is the same, and
// so is the shield, which knows nothing of the container's user namespace.
func tried(users bool) (all []place) {
	for _, place := range places {
		if whole() || place.command == rights.Tree || place.name == shielded && !users {
			all = append(all, place)
		}
	}
	return all
}

// made is the case of whether root could make what is tried, with its lists.
const made = "root, all, make"

// A reason is why a difference stays.
type reason struct {
	why     string
	differs func(place, name string, want, got result) bool
}

var reasons = []reason{
	{
		"newer kernels than the guest's refuse this to whom owns no file, for the set-group-ID bit that it would lose; FUSE leaves that bit to the server",
		func(_, name string, _, _ result) bool {
			return strings.HasPrefix(name, "CHOWN without root, ") && strings.Contains(name, " 2660")
		},
	},
	{
		"what is written to a mounted file takes its set-id bits away, also when root or CAP_FSETID writes (docs/file-mounts.md)",
		func(place, _ string, want, got result) bool {
			had, has, same := setIDs(want.state, got.state)
			return place == shielded && same && has&^had == 0 && want.allowed() == got.allowed()
		},
	},
	{
		"libkrun's file server writes as root without CAP_FSETID, who is in no group: the set-group-ID bit of what nobody executes goes, too",
		func(_, name string, want, got result) bool {
			had, has, same := setIDs(want.state, got.state)
			return host.Driver == "krun" && strings.Contains(name, " 2660") && same && has&^had == 0 && want.allowed() == got.allowed()
		},
	},
	{
		"libkrun's file server leaves set-id bits to what is truncated, which is to be mended there",
		func(_, name string, want, got result) bool {
			_, _, same := setIDs(want.state, got.state)
			return host.Driver == "krun" && strings.HasSuffix(name, ", truncate what has set-id bits") && same && want.allowed() == got.allowed()
		},
	},
}

// sample is how many pairs of an identity and a kind are tried: one of so many. With one of
// fifteen each identity and each kind is tried still.
func (m *matrix) sample() rights.Sample { return rights.Sample(harness.Many(15, 1)) }

// A result is what a call answered and what the file then is: owner, group and mode, and its
// access control lists.
type result struct{ errno, state string }

func newResult(text string) result {
	errno, state, _ := strings.Cut(text, " ")
	return result{errno, withoutLists(state)}
}

func (r result) allowed() bool { return rights.Allowed(r.errno + " ") }

// compare compares what was allowed, and what came of it. The error of what both refuse may be
// another: kernels differ in what they look at first. Where access control lists are concerned
// nobody may more than with runc, but may less: the guest's kernel judges by modes.
func compare(t *testing.T, place string, want, got map[string]string) {
	t.Helper()
	var different, known, less, others int
	for _, name := range slices.Sorted(maps.Keys(want)) {
		theirs, ours, list := newResult(want[name]), newResult(got[name]), name == made || strings.Contains(name, "list")
		switch {
		case theirs == ours && got[name] != "":
		case list && want[made] != got[made]: // root could not make lists
		case list && theirs.allowed():
			if !ours.allowed() {
				less++
			}
		case list && !ours.allowed():
		case theirs.state == ours.state && !theirs.allowed() && !ours.allowed():
			others++
		case slices.ContainsFunc(reasons, func(r reason) bool { return r.differs(place, name, theirs, ours) }):
			known++
		default:
			if different++; different <= 40 {
				t.Errorf("%s: %s: runc %q, msb %q", place, name, want[name], got[name])
			}
		}
	}
	if len(want) == 0 || len(want) != len(got) {
		t.Errorf("%s: %d cases with runc, %d with msb", place, len(want), len(got))
	}
	t.Logf("%s: %d cases, %d differ; %d for a reason; %d that lists allow are refused; %d are refused with another error",
		place, len(want), different, known, less, others)
}

// compareHost compares what the host sees afterwards.
func compareHost(t *testing.T, dir string, want, got map[string]string) {
	t.Helper()
	var different int
	for name, state := range want {
		theirs, ours := withoutLists(state), withoutLists(got[name])
		if dir == "host" { // the last that was tried there are lists, which set the mode
			theirs, ours = theirs[:strings.LastIndex(theirs, ":")], ours[:max(0, strings.LastIndex(ours, ":"))]
		}
		list := dir == "tree" && (strings.Contains(name, "list") || strings.HasSuffix(name, "/below"))
		known := strings.HasPrefix(name, "CHOWN without root/file 2660") || host.Driver == "krun" && strings.Contains(name, "file 2660")
		if theirs != ours && !list && !known {
			different++
			t.Errorf("%s on the host: %s: runc %q, msb %q", dir, name, theirs, ours)
		}
	}
	t.Logf("%s on the host: %d files, %d differ", dir, len(want), different)
}

// notOnAShare are tests of go-fuse's that end differently on virtio-fs, and why.
var notOnAShare = map[string]string{
	"Tmpfile": "its servers offer no O_TMPFILE (DM-11)",
}

// comparePosix compares what became of go-fuse's tests of a file system (posixtest).
func comparePosix(t *testing.T, want, got map[string]string) {
	t.Helper()
	for name, result := range want {
		if _, known := notOnAShare[name]; got[name] != result && !known {
			t.Errorf("go-fuse's test %s: runc %s, msb %q", name, result, got[name])
		}
	}
	if len(want) < 20 || len(got) != len(want) {
		t.Errorf("go-fuse's tests: %d with runc, %d with msb", len(want), len(got))
	}
	t.Logf("go-fuse's tests: %d, of which %d need not be as with runc", len(want), len(notOnAShare))
}

// setIDs are the set-id bits in the modes of two states, and whether all else is the same.
func setIDs(before, after string) (had, has uint32, same bool) {
	rest, had := cutSetID(before)
	restAfter, has := cutSetID(after)
	return had, has, rest == restAfter
}

// cutSetID is a state without the set-id bits of its mode, and these bits.
func cutSetID(state string) (rest string, bits uint32) {
	var uid, gid, mode uint32
	if _, err := fmt.Sscanf(state, "%d:%d:%o", &uid, &gid, &mode); err != nil {
		return state, 0
	}
	const setID = 0o6000
	return fmt.Sprintf("%d:%d:%o", uid, gid, mode&^setID), mode & setID
}

func withoutLists(state string) string {
	state, _, _ = strings.Cut(state, " ")
	return state
}

// A matrix is what is tried under one runtime.
type matrix struct {
	runtime string
	users   bool
	dir     string
	mounts  []specs.Mount
	before  map[string]string            // the mounted files, as the host made them
	results map[string]map[string]string // by place
	posix   map[string]string            // what became of go-fuse's tests
}

func newMatrix(t *testing.T, runtime string, users bool) *matrix {
	t.Helper()
	place := host.Dir
	if harness.Emulated() {
		// There it is on a tmpfs, whose files have, in that kernel, neither users' attributes nor
		// mapped owners.
		place = "/var/tmp"
	}
	dir, err := os.MkdirTemp(place, "rights-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	m := &matrix{runtime: runtime, users: users, dir: dir, results: make(map[string]map[string]string), posix: make(map[string]string)}
	for _, name := range []string{"tree", "rw", "host", "ro", "posix"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := rights.Make(filepath.Join(dir, "tree"), m.sample()); err != nil {
		t.Fatal(err)
	}
	m.mount("tree", "/tree")
	m.mount("posix", "/posix")
	options := map[string][]string{"host": {"x-msb.metadata=host"}, "ro": {"ro"}}
	for _, place := range tried(users) {
		if place.command != rights.Mounts {
			continue
		}
		names, err := rights.MakeFiles(filepath.Join(dir, place.source()))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			m.mount(filepath.Join(place.source(), name), filepath.Join(place.dir, name), options[place.source()]...)
		}
	}
	m.before = m.look(t, "rw")
	return m
}

func (m *matrix) mount(source, destination string, options ...string) {
	if m.runtime == runcRuntime {
		options = slices.DeleteFunc(options, func(option string) bool { return strings.HasPrefix(option, "x-msb.") })
	}
	mount := bind(filepath.Join(m.dir, source), destination, options...)
	if m.users {
		mount.UIDMappings, mount.GIDMappings = ranges, ranges
	}
	m.mounts = append(m.mounts, mount)
}

// container is what the container is made with.
func (m *matrix) container(id string, image client.Image) []client.NewContainerOpts {
	runtime := client.WithRuntime(m.runtime, nil)
	switch {
	case m.users: // with options of ours, containerd starts none (see TestUserNamespace)
		return []client.NewContainerOpts{client.WithUserNSRemappedSnapshot(id, image, ranges, ranges), runtime}
	case m.runtime == harness.Runtime:
		runtime = host.WithRuntime()
	}
	return []client.NewContainerOpts{client.WithNewSnapshot(id, image), runtime}
}

// run runs everything in one container.
func (m *matrix) run(t *testing.T) {
	t.Helper()
	spec := []oci.SpecOpts{oci.WithMounts(append(m.mounts, bind(filepath.Join(host.Output, "tools/probe"), "/probe", "ro")))}
	if m.users {
		spec = append(spec, oci.WithUserNamespace(ranges, ranges))
	}
	c := start(t, options{spec: spec, container: m.container}, sleeper...)
	for _, place := range tried(m.users) {
		output, stderr, code := c.program("rights", place.command, place.dir, fmt.Sprint(int(m.sample())))
		results, err := rights.Parse(strings.NewReader(output))
		if err != nil || code != 0 {
			t.Fatalf("%s under %s: exit code %d, %v: %s%s", place.name, m.runtime, code, err, stderr, output[max(0, len(output)-300):])
		}
		t.Logf("%s: tried %s", m.runtime, place.name)
		m.results[place.name] = results
	}
	if m.posixTried() {
		m.runPosix(c)
	}
	if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
		t.Error(err)
	}
}

// posixTried tells whether go-fuse's tests are tried. The server that they are about knows nothing
// of the container's user namespace.
func (m *matrix) posixTried() bool { return !m.users }

// posixRace opens a link a thousand times while it changes, which takes an emulated host a minute.
const posixRace = "OpenSymlinkRace"

func (m *matrix) runPosix(c *task) {
	program := []string{"posix", "/posix"}
	if !whole() {
		program = append(program, posixRace)
	}
	output, _, _ := c.program(program...)
	for line := range strings.Lines(output) {
		if result, ok := strings.CutPrefix(line, "--- "); ok {
			result, name, _ := strings.Cut(result, ": ")
			name, _, _ = strings.Cut(name, " ")
			m.posix[name] = result
		}
	}
}

// program runs the probe.
func (k *task) program(args ...string) (stdout, stderr string, code uint32) {
	k.t.Helper()
	var out, errors harness.Buffer
	process, exit := k.startExec(cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &errors)), nil, append([]string{"/probe"}, args...)...)
	code = await(k.t, exit)
	if _, err := process.Delete(k.ctx); err != nil {
		k.t.Fatalf("deleting an exec: %v", err)
	}
	return out.String(), errors.String(), code
}

// look is what the host sees.
func (m *matrix) look(t *testing.T, place string) map[string]string {
	t.Helper()
	seen, err := rights.Look(filepath.Join(m.dir, place))
	if err != nil {
		t.Fatal(fmt.Errorf("looking at %s: %w", place, err))
	}
	return seen
}
