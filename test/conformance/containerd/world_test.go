package containerd

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// The suites have a containerd in places of their own choice, kill processes by name, and
// leave things behind when they fail. So each gets a world: namespaces for its mounts, its
// processes and its network, in which this program is process 1. Whatever is in it ends
// with it.

// worldEnv marks the environment of process 1. Its value is the world's directory.
const worldEnv = "MSB_CONFORMANCE_WORLD"

// daemonConfig is the configuration of the containerd that a suite needs, if it does.
func daemonConfig(dir string) string { return filepath.Join(dir, "containerd.toml") }

// newWorld is a command that runs a suite in a new world, whose files are in dir.
func newWorld(output, dir, suite string, arguments []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{suite}, arguments...)...)
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	// Some tests are about runc: they skip themselves for any other flavour of it.
	cmd.Env = append(cmd.Env, worldEnv+"="+dir, "MSB_OUTPUT="+output, "TEST_RUNTIME="+runtimeType(), "RUNC_FLAVOR="+*handler,
		"PATH="+strings.Join([]string{filepath.Join(output, "bin"), filepath.Join(output, "tools"), os.Getenv("PATH")}, ":"))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// live is process 1's life: it runs the suite and returns its exit code.
func live(dir string, suite []string) (code int, err error) {
	if err := errors.Join(makeMounts(dir), loopbackUp()); err != nil {
		return 1, err
	}
	environment, err := serveImages(filepath.Join(os.Getenv("MSB_OUTPUT"), "images", "containerd"), dir)
	if err != nil {
		return 1, err
	}
	environment = append(append(os.Environ(), "TMPDIR="+temporary), environment...)
	stop := func() {}
	if config := daemonConfig(dir); exists(config) {
		if stop, err = startDaemon(config, environment); err != nil {
			return 1, err
		}
	}
	cmd := exec.Command(suite[0], suite[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdout, os.Stderr, environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	code, err = reap(cmd.Process.Pid)
	stop()
	for _, process := range remaining(10 * time.Second) {
		fmt.Fprintln(os.Stderr, leftMark+process)
	}
	return code, err
}

// temporary is where tests make their files, and sockets, whose names cannot be long.
const temporary = "/run/tmp"

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// keepAlive is a script that runs containerd. Tests kill it, wait until there is none, and
// then until there is one again.
const keepAlive = `while :; do containerd --config "$1"; sleep 3; done`

// startDaemon runs containerd until it is stopped, and waits until its CRI plugin serves.
func startDaemon(config string, environment []string) (stop func(), err error) {
	cmd := exec.Command("sh", "-c", keepAlive, "sh", config)
	cmd.Stdout, cmd.Stderr, cmd.Env = os.Stderr, os.Stderr, environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(daemonAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }, harness.AwaitRuntime(cri.NewRuntimeServiceClient(conn))
}

// daemonAddress is containerd's own default.
const daemonAddress = "unix:///run/containerd/containerd.sock"

// remaining are the others that do not end in a time: a shim ends after its container.
func remaining(patience time.Duration) (all []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if all = others(); len(all) == 0 || time.Now().After(deadline) {
			return all
		}
	}
}

// leftMark begins a line about a process that the suite left behind.
const leftMark = "left behind: "

// others are the command lines of the world's processes but this one.
func others() (all []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && file != "/proc/1/cmdline" && len(line) > 0 {
			all = append(all, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
		}
	}
	return all
}

// reap is what every process 1 owes its world, until one process ends.
func reap(pid int) (code int, err error) {
	for {
		var status unix.WaitStatus
		ended, err := rawcall.Retry(func() (int, error) { return unix.Wait4(-1, &status, 0, nil) })
		switch {
		case err != nil:
			return 1, os.NewSyscallError("wait4", err)
		case ended == pid && status.Signaled():
			return 1, fmt.Errorf("the suite died: %s", status.Signal())
		case ended == pid:
			return status.ExitStatus(), nil
		}
	}
}

// makeMounts gives the world its own /proc, /run and /var/lib, and an /etc with a
// configuration of the runtime. The host's mounts still arrive; its own stay inside,
// where shims get them from containerd.
func makeMounts(dir string) error {
	upper, work, lib, files := "/run/etc", "/run/etc.work", filepath.Join(dir, "lib"), filepath.Join(dir, "tmp")
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
		func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		func() error { return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755") },
		func() error {
			return errors.Join(os.Mkdir(lib, 0o755), os.Mkdir(files, 0o755), os.Mkdir(temporary, 0o755))
		},
		func() error { return unix.Mount(lib, "/var/lib", "", unix.MS_BIND, "") },
		func() error { return unix.Mount(files, temporary, "", unix.MS_BIND, "") },
		// The tests ask this one whether its file system can map ids.
		func() error { return os.Mkdir("/var/lib/containerd-test", 0o755) },
		func() error { return errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)) },
		func() error {
			return unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+work)
		},
		writeConfigurations,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("making the world's mounts: %w", err)
		}
	}
	return nil
}

func writeConfigurations() (err error) {
	for path, content := range map[string]string{
		config.Path:        fmt.Sprintf(runtimeConfig, cmp.Or(os.Getenv("MSB_DRIVER"), "qemu")),
		networkFile:        fmt.Sprintf(podNetwork, "bridge", "cni0", "10.88", "2001:db8:1"),
		failingNetworkFile: fmt.Sprintf(podNetwork, "cni-bridge-fp", "cni-fp", "10.89", "2001:db8:2"),
	} {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600))
	}
	return err
}

// runtimeConfig is msb's. The VM is for tests that raise a container's memory limit to 800 MiB.
const runtimeConfig = "driver = %q\nvm.memory = \"1200MiB\"\n"

// Configurations of networks, each in a directory of its own. The plugin of the second
// fails when a pod's annotations say so.
const (
	networkFile        = "/etc/cni/conformance/pods.conflist"
	failingNetworkFile = "/etc/cni/failing/pods.conflist"
)

// podNetwork is a network like that of containerd's own scripts, with addresses of both
// families.
const podNetwork = `{
  "cniVersion": "1.0.0",
  "name": "%[2]s",
  "plugins": [
    {
      "type": %[1]q, "bridge": %[2]q, "isGateway": true, "ipMasq": true, "promiscMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "%[3]s.0.0/16"}], [{"subnet": "%[4]s::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      },
      "capabilities": {"io.kubernetes.cri.pod-annotations": true}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

func loopbackUp() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}
