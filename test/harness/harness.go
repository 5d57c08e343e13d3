// Package harness runs a real containerd, private to the test or benchmark,
// with the shim that the build made, and tells what is left behind.
package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/vishvananda/netlink"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

const (
	// Runtime is the runtime under test.
	Runtime = "io.containerd.msb.v2"
	// Image is the image that every container runs.
	Image = "msb.test/busybox:latest"
)

// Namespace is containerd's namespace, and so the control group around the containers. It
// is this process's own: other tests may run on the machine at the same time.
var Namespace = fmt.Sprintf("test-%d", os.Getpid())

// Patience is how long a test waits for one thing. It bounds what never comes; how fast the
// machine is does not decide a test, so it is far longer than anything has taken: the
// machine may be busy, and its VMs are emulated. Only who knows that something never comes gives
// another: test/mutation, in MSB_PATIENCE.
var Patience = patience(os.Getenv("MSB_PATIENCE"))

func patience(given string) time.Duration {
	if given == "" {
		return 10 * time.Minute
	}
	limit, err := time.ParseDuration(given)
	if err != nil || limit <= 0 {
		panic(fmt.Sprintf("MSB_PATIENCE is %q: it is how long tests wait for one thing, such as 90s", given))
	}
	return limit
}

// Eventually looks again and again whether a condition holds, and tells whether it did
// within Patience.
func Eventually(holds func() bool) bool {
	for deadline := time.Now().Add(Patience); ; {
		began := time.Now()
		if holds() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pauseAfter(time.Since(began)))
	}
}

// pauseAfter is how long Eventually waits after a look: as long as that took, within bounds, so that at
// most half of a processor goes into looking. To list processes and mounts takes an emulated host
// longer than the shortest pause, and what is waited for needs its only processor.
func pauseAfter(look time.Duration) time.Duration {
	return min(max(look, 20*time.Millisecond), 500*time.Millisecond)
}

// Names are the names in a directory, which has to be there.
func Names(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// Host is a running containerd.
type Host struct {
	// Dir holds everything of it; a test may put files below it.
	Dir string
	// Output is the build's output directory.
	Output string
	// Driver is the driver under test: MSB_DRIVER, or else qemu, which runs
	// everywhere.
	Driver string
	// Config is a configuration file of the runtime that names the driver.
	Config string
	// Client is connected to it.
	Client *client.Client

	release    string   // of containerd: empty is the build's, or else release17
	alive      *os.File // is locked
	containerd *exec.Cmd
	ended      chan struct{} // closed when containerd has ended
	log        string
	plugins    string   // the part of containerd's configuration that is about plugins
	wrapper    []string // runs containerd, if there is one
	namespaces uintptr  // those of containerd that are its own
}

// release17 in MSB_CONTAINERD starts containerd 1.7.
const release17 = "1.7"

// An Option changes what Start starts, such as CRI.
type Option func(*Host) error

// Without CRI nothing of the host outside h.Dir is needed.
const withoutCRI = `disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
`

// Start starts containerd and imports the image. Stop ends it.
func Start(options ...Option) (_ *Host, err error) {
	output := os.Getenv("MSB_OUTPUT")
	if output == "" {
		return nil, errors.New("MSB_OUTPUT must name the build's output directory: use make test-e2e or make bench")
	}
	sweep()
	dir, err := os.MkdirTemp(hostsDir(), dirPattern)
	if err != nil {
		return nil, err
	}
	h := &Host{
		Dir: dir, Output: output, log: filepath.Join(dir, "log"),
		release: os.Getenv("MSB_CONTAINERD"), Driver: cmp.Or(os.Getenv("MSB_DRIVER"), "qemu"), Config: filepath.Join(dir, "msb.toml"),
		plugins: withoutCRI, namespaces: syscall.CLONE_NEWNET,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Stop())
		}
	}()
	// A root of a user namespace goes through to its container, as it does below /run/containerd.
	if err := errors.Join(h.lock(), os.Chmod(dir, 0o711), os.Mkdir(h.temporary(), 0o711)); err != nil {
		return nil, err
	}
	if err := h.configure(); err != nil {
		return nil, err
	}
	for _, option := range options {
		if err := option(h); err != nil {
			return nil, err
		}
	}
	started.add(h)
	if err := h.launch(); err != nil {
		return nil, err
	}
	if err := h.connect(); err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w\n%s", err, h.Log())
	}
	for _, namespace := range []string{Namespace, KubernetesNamespace} {
		if _, stderr, code := h.Ctr("--namespace", namespace, "image", "import", filepath.Join(output, "images", "busybox.tar")); code != 0 {
			return nil, fmt.Errorf("importing the images: %s", stderr)
		}
	}
	return h, nil
}

// configure writes the runtime's configuration. With spares it is that of clients which name
// none, too.
func (h *Host) configure() error {
	content := fmt.Sprintf("driver = %q\n[vm]\nboot_timeout = %q\n", h.Driver, Patience)
	count := os.Getenv(sparesEnv)
	if count == "" {
		return os.WriteFile(h.Config, []byte(content), 0o600)
	}
	content += fmt.Sprintf("[spare]\ncount = %s\n", count)
	return errors.Join(os.WriteFile(h.Config, []byte(content), 0o600), useByDefault([]byte(content)))
}

// Names of containerd's socket and configuration in its directory, and of that (os.MkdirTemp).
const (
	socketName = "containerd.sock"
	configName = "config.toml"
	dirPattern = "msb-test-*"
)

// hostsDir has the directories of every Host on the machine, so that each knows what is the
// others'. MSB_TEST_HOSTS names it where TMPDIR is one test's own: it has to be short, too,
// because sockets are below it.
func hostsDir() string { return cmp.Or(os.Getenv("MSB_TEST_HOSTS"), os.TempDir()) }

// Address is containerd's socket.
func (h *Host) Address() string { return filepath.Join(h.Dir, socketName) }

func (h *Host) launch() error {
	version := 3 // of the configuration
	if h.release == release17 {
		version = 2
	}
	config := fmt.Sprintf(`version = %d
root = %q
state = %q
%s
[grpc]
  address = %q
[ttrpc]
  address = %q
[debug]
  level = "debug"
`, version, filepath.Join(h.Dir, "root"), h.state(), h.plugins, h.Address(), h.Address()+".ttrpc")
	file := filepath.Join(h.Dir, configName)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	log, err := os.Create(h.log)
	if err != nil {
		return err
	}
	defer log.Close()
	command := append(slices.Clone(h.wrapper), filepath.Join(h.Output, "tools", h.release, "containerd"), "--config", file)
	h.containerd = exec.Command(command[0], command[1:]...)
	h.containerd.Stdout, h.containerd.Stderr = log, log
	h.containerd.Env = append(os.Environ(), "TMPDIR="+h.temporary(), "PATH="+strings.Join([]string{
		filepath.Join(h.Output, "bin"), filepath.Join(h.Output, "tools"), os.Getenv("PATH"),
	}, ":"))
	// The network that is the host's to containers is the test's own.
	h.containerd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Cloneflags: h.namespaces}
	if err := h.startContainerd(func() error { return nil }); err != nil {
		return err
	}
	return h.InNetwork(func() error {
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(loopback),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
}

func (h *Host) startContainerd(enter func() error) error {
	ended, err := startFrom(enter, h.containerd)
	if err == nil {
		h.ended = ended
	}
	return err
}

// startFrom starts a command from a thread that stays until it has ended, which ended tells:
// Pdeathsig is about that thread, not about the process. enter moves the thread before.
func startFrom(enter func() error, cmd *exec.Cmd) (ended chan struct{}, err error) {
	started, ended := make(chan error), make(chan struct{})
	thread.Go(func() {
		err := enter()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	})
	return ended, <-started
}

// StartBeside starts a daemon in the namespaces of containerd, whose client it is. It ends by
// force when this process does. With a file of h.Dir among its arguments it is also known as
// one of the tests' when they were killed. ended is closed when it has ended.
func (h *Host) StartBeside(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return startFrom(func() error { return enter(h.Pid(), h.namespaces) }, cmd)
}

// connect waits until containerd serves.
func (h *Host) connect() (err error) {
	ctx, cancel := h.Context()
	defer cancel()
	Eventually(func() bool {
		if _, err = os.Stat(h.Address()); err == nil {
			if h.Client, err = client.New(h.Address()); err == nil {
				if _, err = h.Client.Version(ctx); err != nil {
					_ = h.Client.Close()
				}
			}
		}
		return err == nil
	})
	return err
}

// Has tells whether a path is one of this Host's shims and their spares. A shim's mount namespace is a
// copy of the host's, with what others have mounted there.
func (h *Host) Has(path string) bool {
	return strings.HasPrefix(path, h.Dir+"/") || strings.HasPrefix(path, "/run/")
}

func (h *Host) state() string { return filepath.Join(h.Dir, "state") }

// temporary is where the shims make their temporary directories.
func (h *Host) temporary() string { return filepath.Join(h.Dir, "tmp") }

// ClientEnvironment is that of a client, such as nerdctl: what it leaves of temporary files goes with
// the Host.
func (h *Host) ClientEnvironment() []string { return append(os.Environ(), "TMPDIR="+h.temporary()) }

// Stop ends containerd and removes its directory.
func (h *Host) Stop() error {
	defer started.remove(h)
	var errs []error
	if h.Client != nil {
		errs = append(errs, h.Client.Close())
	}
	if h.ended != nil {
		_ = h.containerd.Process.Signal(syscall.SIGTERM)
		<-h.ended
		errs = append(errs, h.awaitNoSpares()) // they end with it
	}
	RemoveGroup(h.PodsCgroup())
	RemoveGroup("/" + Namespace)
	return errors.Join(append(errs, os.RemoveAll(h.Dir))...)
}

// Pid is containerd's process id.
func (h *Host) Pid() int { return h.containerd.Process.Pid }

// Log is containerd's and the shims' log so far.
func (h *Host) Log() string {
	log, _ := os.ReadFile(h.log)
	return string(log)
}

// Context carries containerd's namespace and a limit for all that one test does.
func (h *Host) Context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(context.Background(), Namespace), 5*Patience)
}

// Many is how many of something a test makes: few enough for every run, or with MSB_LONG
// ("make test-long") as many as a test is worth that nobody waits for.
func Many(few, many int) int {
	if os.Getenv("MSB_LONG") != "" {
		return many
	}
	return few
}

// Emulated tells whether the host itself is emulated (hack/kvmhost): it has one slow
// processor.
func Emulated() bool { return os.Getenv("MSB_EMULATED") != "" }

// FewEmulated is how many of something a test makes that is too slow for every run only where
// the host is emulated: many elsewhere.
func FewEmulated(few, many int) int {
	if !Emulated() {
		return many
	}
	return Many(few, many)
}

// Bundle is the bundle's directory of a task.
func (h *Host) Bundle(id string) string {
	return filepath.Join(h.state(), "io.containerd.runtime.v2.task", Namespace, id)
}

// Ctr runs ctr and returns what it printed and its exit code.
func (h *Host) Ctr(args ...string) (stdout, stderr string, code int) {
	return h.CtrInput(nil, args...)
}

// CtrCommand is ctr, to be run.
func (h *Host) CtrCommand(args ...string) *exec.Cmd {
	return h.ctr(context.Background(), args)
}

func (h *Host) ctr(ctx context.Context, args []string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(h.Output, "tools", h.release, "ctr"), append([]string{"--address", h.Address(), "--namespace", Namespace}, args...)...)
}

// CtrInput runs ctr with an input.
func (h *Host) CtrInput(input io.Reader, args ...string) (stdout, stderr string, code int) {
	ctx, cancel := h.Context()
	defer cancel()
	cmd := h.ctr(ctx, args)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), withoutNotices(errOut.String()), cmd.ProcessState.ExitCode()
}

// Abandon runs ctr and kills it after a while.
func (h *Host) Abandon(after time.Duration, args ...string) {
	cmd := h.CtrCommand(args...)
	if err := cmd.Start(); err != nil {
		return
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// withoutNotices drops what the client says about containerd's own future.
func withoutNotices(stderr string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if !strings.Contains(line, "DEPRECATION") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// Run runs a command in a new container under the runtime, as a user would.
// Options are ctr's; the last arguments are the command.
func (h *Host) Run(id string, options []string, command ...string) (stdout, stderr string, code int) {
	h.SettleSpares()
	return h.Ctr(append(append(append(h.CtrRun(), options...), Image, id), command...)...)
}

// CtrRun is the beginning of ctr's command line for a container under the
// runtime. A later --runtime-config-path overrides the one that is in it.
func (h *Host) CtrRun() []string {
	return []string{"run", "--rm", "--runtime", Runtime, "--runtime-config-path", h.Config}
}

// WithRuntime is the same for a client.
func (h *Host) WithRuntime() client.NewContainerOpts {
	return client.WithRuntime(Runtime, &runtimeoptions.Options{ConfigPath: h.Config})
}

// Bind is ctr's option that mounts source at destination.
func Bind(source, destination, options string) string {
	return fmt.Sprintf("--mount=type=bind,src=%s,dst=%s,options=%s", source, destination, options)
}

// Sleeper is a command for a container to exec in. As PID 1 of its namespace, sh reacts to
// SIGTERM only because it is told to. It takes no processor: a new sleep each second costs a
// VM without KVM as much as all that some tests do.
var Sleeper = []string{"sh", "-c", "trap 'kill $!; exit 0' TERM; while :; do sleep 86400 & wait; done"}

// Buffer is a bytes.Buffer for several goroutines.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
