package e2e

import (
	"bytes"
	"errors"
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
		t.Run("VM03 VM04 "+name, func(t *testing.T) {
			nothingLeft(t)
			theirs, ours := newMatrix(t, runcRuntime, users), newMatrix(t, harness.Runtime, users)
			theirs.run(t)
			ours.run(t)
			for place, want := range theirs.results {
				t.Logf("%s: %d cases, %d differ", place, len(want), differ(t, place, want, ours.results[place]))
			}
			// What the host sees afterwards. Of files with the metadata of their own (docs/file-mounts.md)
			// it sees nothing that was done but to their data.
			for _, place := range []string{"tree", "host", "ro"} {
				t.Logf("%s on the host: %d files", place, differ(t, place+" on the host", theirs.look(t, place), ours.look(t, place)))
			}
			if got := ours.look(t, "rw"); !maps.Equal(got, ours.before) {
				t.Errorf("the mounted files have changed on the host: %v, and were %v", got, ours.before)
			}
		})
	}
}

// differ tells the cases that are not equal, and their number.
func differ(t *testing.T, place string, want, got map[string]string) (different int) {
	t.Helper()
	const most = 40
	names := slices.Sorted(maps.Keys(want))
	for name := range got {
		if _, known := want[name]; !known {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if want[name] == got[name] {
			continue
		}
		if different++; different <= most {
			t.Errorf("%s, %s: runc %q, msb %q", place, name, want[name], got[name])
		}
	}
	if len(want) == 0 {
		t.Errorf("%s: nothing was tried", place)
	}
	return different
}

// A matrix is what is tried under one runtime.
type matrix struct {
	runtime string
	users   bool
	dir     string
	mounts  []specs.Mount
	before  map[string]string            // the mounted files, as the host made them
	results map[string]map[string]string // by place
}

func newMatrix(t *testing.T, runtime string, users bool) *matrix {
	t.Helper()
	// Where temporary files are a tmpfs, its files have neither users' attributes nor, before
	// Linux 6.3, mapped owners.
	dir, err := os.MkdirTemp("/var/tmp", "msb-rights-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	m := &matrix{runtime: runtime, users: users, dir: dir, results: make(map[string]map[string]string)}
	for _, place := range []string{"tree", "rw", "host", "ro"} {
		if err := os.Mkdir(filepath.Join(dir, place), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := rights.Make(filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	m.mount("tree", "/tree")
	for place, options := range map[string][]string{"rw": nil, "host": {"x-msb.metadata=host"}, "ro": {"ro"}} {
		names, err := rights.MakeFiles(filepath.Join(dir, place))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			m.mount(filepath.Join(place, name), filepath.Join("/files", place, name), options...)
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
	for place, command := range map[string]string{
		"a directory":          rights.Tree + " /tree",
		"the root file system": rights.Made + " /root-tree",
		"a file":               rights.Mounts + " /files/rw",
		"a file, host's":       rights.Mounts + " /files/host",
		"a read-only file":     rights.Mounts + " /files/ro",
	} {
		var out, stderr harness.Buffer
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &stderr)), nil,
			append([]string{"/probe", "rights"}, strings.Fields(command)...)...)
		code := await(t, exit)
		_, err := process.Delete(c.ctx)
		results, parseErr := rights.Parse(strings.NewReader(out.String()))
		if err := errors.Join(err, parseErr); err != nil || code != 0 {
			t.Fatalf("%s under %s: exit code %d, %v: %s%s", place, m.runtime, code, err, stderr.String(), tail(out.String()))
		}
		m.results[place] = results
	}
	if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
		t.Error(err)
	}
}

func tail(text string) string { return text[max(0, len(text)-300):] }

// look is what the host sees.
func (m *matrix) look(t *testing.T, place string) map[string]string {
	t.Helper()
	seen, err := rights.Look(filepath.Join(m.dir, place))
	if err != nil {
		t.Fatal(fmt.Errorf("looking at %s: %w", place, err))
	}
	return seen
}
