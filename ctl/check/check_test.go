package check

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// good is a host on which all is well.
func good() Facts {
	return Facts{
		Version: "1.0", Kernel: "6.1.0-13-amd64", Arch: "amd64",
		Config: Config{Files: []string{"/etc/msb/config.toml"}, Driver: "auto"},
		Kit:    Kit{Dir: "/usr/local/lib/msb", Shim: "/usr/local/bin/containerd-shim-msb-v2", Version: "1.0", Guest: "6.12", Arch: "amd64"},
		QEMU:   QEMU{Path: "/usr/bin/qemu-system-x86_64", Version: "7.2", Package: "qemu-system-x86", Virtiofsd: "/usr/local/lib/msb/virtiofsd", Own: true},
		Cgroup: Cgroup{Version: 2}, SharedRoot: true, Descriptors: 1 << 20,
		Containerd: Containerd{
			Address: "/run/containerd/containerd.sock", Version: "2.4.2", RuntimeVersion: "1.0",
			CRI: true, Handlers: []string{"msb"}, Snapshotters: []string{"overlayfs"},
		},
	}
}

var errTest = errors.New("it is not there")

func TestGood(t *testing.T) {
	results := Run(good())
	if Worst(results) != OK {
		t.Errorf("%+v", results)
	}
	for _, r := range results {
		if r.Name == "" || r.Found == "" || r.Means != "" || r.Do != "" {
			t.Errorf("%+v", r)
		}
	}
}

// Each thing that can be wrong is told by its own line, or by several; what is wrong has a
// meaning and a remedy.
func TestBad(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		want   string // the lines that are not ok
	}{
		"old kernel":        {func(f *Facts) { f.Kernel = "5.10.0-9-amd64" }, "missing kernel"},
		"old major":         {func(f *Facts) { f.Kernel = "4.19" }, "missing kernel"},
		"odd kernel":        {func(f *Facts) { f.Kernel = "" }, "missing kernel"},
		"mistakes":          {func(f *Facts) { f.Config.Problems = []string{"x"} }, "missing configuration"},
		"no shim":           {func(f *Facts) { f.Kit.Shim = "" }, "missing kit"},
		"part of a kit":     {func(f *Facts) { f.Kit.Missing = []string{"vmlinux"} }, "missing kit"},
		"broken kit":        {func(f *Facts) { f.Kit.Broken = errTest }, "missing kit"},
		"another kit":       {func(f *Facts) { f.Kit.Version = "0.9" }, "warning kit"},
		"a kit of none":     {func(f *Facts) { f.Kit.Version = "" }, "warning kit"},
		"no KVM":            {func(f *Facts) { f.KVM = errTest }, "warning KVM, warning driver"},
		"KVM is a must":     {func(f *Facts) { f.KVM, f.Config.Driver = errTest, "krun" }, "missing KVM, missing driver"},
		"no libkrun":        {func(f *Facts) { f.Krun = errTest }, "warning libkrun"},
		"libkrun is a must": {func(f *Facts) { f.Krun, f.Config.Driver = errTest, "krun" }, "missing libkrun, missing driver"},
		"no libkrun asked":  {func(f *Facts) { f.Krun, f.Config.Driver = errTest, "qemu" }, ""},
		"neither":           {func(f *Facts) { f.Krun, f.KVM = errTest, errTest }, "warning KVM, warning driver"},
		"no QEMU":           {func(f *Facts) { f.QEMU.Err = errTest }, ""},
		"QEMU is a must":    {func(f *Facts) { f.QEMU.Err, f.Config.Driver = errTest, "qemu" }, "missing QEMU, missing driver"},
		"nothing runs":      {func(f *Facts) { f.QEMU.Err, f.KVM = errTest, errTest }, "warning KVM, missing QEMU, missing driver"},
		"their virtiofsd":   {func(f *Facts) { f.QEMU.Own, f.Config.Driver = false, "qemu" }, "warning QEMU"},
		"unused virtiofsd":  {func(f *Facts) { f.QEMU.Own = false }, ""},
		"no virtiofsd":      {func(f *Facts) { f.QEMU.Err, f.QEMU.OfVirtiofsd, f.Config.Driver = errTest, true, "qemu" }, "missing QEMU, missing driver"},
		"old QEMU":          {func(f *Facts) { f.QEMU.Version, f.Config.Driver = "6.2.0", "qemu" }, "warning QEMU"},
		"old unused QEMU":   {func(f *Facts) { f.QEMU.Version = "6.2.0" }, ""},
		"another machine":   {func(f *Facts) { f.Kit.Arch = "arm64" }, "warning driver"},
		"its QEMU":          {func(f *Facts) { f.Kit.Arch, f.QEMU.Err = "arm64", errTest }, "missing QEMU, missing driver"},
		"it asks for krun":  {func(f *Facts) { f.Kit.Arch, f.Config.Driver = "arm64", "krun" }, "missing libkrun, missing driver"},
		"no vhost-net":      {func(f *Facts) { f.Vhost, f.Config.Driver = fs.ErrNotExist, "qemu" }, "warning vhost-net"},
		"another vhost-net": {func(f *Facts) { f.Vhost, f.Config.Driver = unix.ENOTTY, "qemu" }, "warning vhost-net"},
		"unused vhost-net":  {func(f *Facts) { f.Vhost = fs.ErrNotExist }, ""},
		"vhost-net, no KVM": {func(f *Facts) { f.Vhost, f.KVM = fs.ErrNotExist, errTest }, "warning KVM, warning driver"},
		"vhost-net of arm":  {func(f *Facts) { f.Vhost, f.Kit.Arch, f.Config.Driver = fs.ErrNotExist, "arm64", "qemu" }, "warning driver"},
		"no FUSE":           {func(f *Facts) { f.FUSE = fs.ErrNotExist }, "missing FUSE, warning FUSE passthrough"},
		"FUSE is refused":   {func(f *Facts) { f.FUSE = errTest }, "missing FUSE, warning FUSE passthrough"},
		"no passthrough":    {func(f *Facts) { f.Passthrough = errTest }, "warning FUSE passthrough"},
		"no TAP":            {func(f *Facts) { f.TAP = fs.ErrNotExist }, "missing TAP devices, warning traffic control"},
		"TAP is refused":    {func(f *Facts) { f.TAP = errTest }, "missing TAP devices, warning traffic control"},
		"no redirection":    {func(f *Facts) { f.Redirect = errTest }, "missing traffic control"},
		"no lookup":         {func(f *Facts) { f.Lookup = errTest }, "warning socket lookup"},
		"no groups":         {func(f *Facts) { f.Cgroup.Version = 0 }, "missing control groups"},
		"v1":                {func(f *Facts) { f.Cgroup.Version = 1 }, ""},
		"v1 lacks":          {func(f *Facts) { f.Cgroup = Cgroup{1, []string{"pids"}} }, "warning control groups"},
		"v2 lacks":          {func(f *Facts) { f.Cgroup.Missing = []string{"cpuset"} }, "warning control groups"},
		"private root":      {func(f *Facts) { f.SharedRoot = false }, "warning mounts"},
		"a chroot":          {func(f *Facts) { f.SharedRoot, f.NoRoot = false, true }, "missing mounts"},
		"no proc":           {func(f *Facts) { f.Proc, f.FUSE = errTest, errTest }, "missing proc"},
		"no traces":         {func(f *Facts) { f.Traces = Traces{"tracing.endpoint", errTest} }, "warning traces"},
		"traces":            {func(f *Facts) { f.Traces.Setting = "tracing.endpoint" }, ""},
		"few descriptors":   {func(f *Facts) { f.Descriptors = 1024 }, "warning descriptors"},
		"no containerd": {
			func(f *Facts) { f.Containerd = Containerd{Err: errTest} },
			"missing containerd, warning runtime, warning Kubernetes, warning snapshotter",
		},
		// deploy/ puts the shim where containerd is told by its path.
		"Kubernetes alone": {func(f *Facts) { f.Containerd.Runtime = errTest }, ""},
		"no runtime": {
			func(f *Facts) { f.Containerd.Runtime, f.Containerd.CRI, f.Containerd.Handlers = errTest, false, nil },
			"missing runtime",
		},
		"another runtime": {func(f *Facts) { f.Containerd.RuntimeVersion = "0.9" }, "warning runtime"},
		"no handler":      {func(f *Facts) { f.Containerd.Handlers = nil }, "warning Kubernetes"},
		"no CRI":          {func(f *Facts) { f.Containerd.CRI, f.Containerd.Handlers = false, nil }, ""},
		"native only":     {func(f *Facts) { f.Containerd.Snapshotters = []string{"native"} }, "warning snapshotter"},
		"no snapshotter":  {func(f *Facts) { f.Containerd.Snapshotters = nil }, "missing snapshotter"},
	} {
		t.Run(name, func(t *testing.T) {
			f := good()
			c.change(&f)
			results := Run(f)
			var lines []string
			for _, r := range results {
				if r.State == OK {
					continue
				}
				lines = append(lines, string(r.State)+" "+r.Name)
				if r.Found == "" || r.Means == "" || r.Do == "" {
					t.Errorf("it is not explained: %+v", r)
				}
			}
			if got := strings.Join(lines, ", "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			worst := OK
			for _, s := range []State{Warning, Missing} {
				if strings.Contains(c.want, string(s)+" ") {
					worst = s
				}
			}
			if Worst(results) != worst {
				t.Errorf("the worst is %s, want %s", Worst(results), worst)
			}
		})
	}
}

func TestText(t *testing.T) {
	if got := text(errors.Join(wrapped{" ("}, errTest, errors.New("another"))); got != "it is not there; another" {
		t.Errorf("%q", got)
	}
	for _, err := range []error{
		errTest, errors.Join(errTest), wrapped{": "}, wrapped{" ("},
	} {
		if got := text(err); got != errTest.Error() {
			t.Errorf("%q", got)
		}
	}
}

// wrapped is an error with a class, in one of the two forms.
type wrapped struct{ before string }

func (w wrapped) Error() string {
	class := errdefs.ErrFailedPrecondition.Error()
	if w.before == " (" {
		class += ")"
	}
	return errTest.Error() + w.before + class
}

// A socket that nobody serves, that another serves, or that never answers is told, in time.
func TestNotContainerd(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	listen("hangs")
	other := listen("other")
	go func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 this is another service\r\n"))
			conn.Close()
		}
	}()
	for _, name := range []string{"none", "other", "hangs"} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		c, pid := lookAtContainerd(ctx, filepath.Join(dir, name))
		cancel()
		if c.Err == nil || pid != 0 {
			t.Errorf("%s: %+v, pid %d", name, c, pid)
		}
	}
}

// As containerd 2.4 prints its CRI plugin's configuration, shortened.
func TestHandlers(t *testing.T) {
	const config = `{"containerd":{"defaultRuntimeName":"runc","runtimes":{
		"runc":{"runtimeType":"io.containerd.runc.v2","runtimePath":""},
		"msb":{"runtimeType":"/opt/msb/current/bin/containerd-shim-msb-v2","sandboxer":"shim"},
		"named":{"runtimeType":"io.containerd.msb.v2"},
		"old":{"runtimeType":"io.containerd.x.v2","runtimePath":"/opt/msb/current/bin/containerd-shim-msb-v2"}}}}`
	if got := handlersIn(config); !slices.Equal(got, []string{"msb", "named", "old"}) {
		t.Errorf("%q", got)
	}
	if got := handlersIn("nonsense"); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestVersionIn(t *testing.T) {
	const printed = "containerd-shim-msb-v2:\n  Version:  v1.2-3-gabc\n  Revision: \n  Go version: go1.26\n\n"
	if got := versionIn(printed); got != "v1.2-3-gabc" {
		t.Errorf("%q", got)
	}
}

// What can be asked without a daemon is asked, on whatever host the tests are.
func TestLook(t *testing.T) {
	f := Look(t.Context(), "", filepath.Join(t.TempDir(), "none"))
	if f.Kernel == "" || f.Containerd.Err == nil || f.Config.Driver != "auto" || f.Descriptors == 0 || len(f.Kit.Missing) == 0 {
		t.Errorf("%+v", f)
	}
	if results := Run(f); Worst(results) != Missing {
		t.Errorf("%+v", results)
	}
}
