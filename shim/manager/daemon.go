package manager

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// daemonEnv marks the environment of the daemon. Its value is the time at which
// containerd started the shim, in nanoseconds since the epoch.
const daemonEnv = "MSB_SHIM_DAEMON"

// The daemon's descriptors. containerd may kill "start" at any moment, when its client
// goes away, and then nobody is called to clean up. So "start" makes the socket's file only
// after it has started the daemon, which removes the file when it ends.
const (
	socketFD = 3 + iota // the shim's socket, where pkg/shim expects it
	mountsFD            // the mount namespace that containerd is in
	startFD             // a pipe: has a byte when "start" is done, and ends without if that was killed
)

// Descriptors are the numbers of a daemon's, for a spare, which becomes one.
func Descriptors() spare.Descriptors {
	return spare.Descriptors{Socket: socketFD, Mounts: mountsFD, Released: startFD}
}

// A daemon is the process that serves the shim's calls, for "start", which has started it, or
// has handed over to a spare what it needs.
type daemon struct {
	process *os.Process // nil if it was a spare: that ends when start is closed
	socket  *os.File    // shared with the daemon: what is bound here is bound there
	start   *os.File    // the other end of startFD's pipe

	patience time.Duration // with the earlier shim of its name
}

// newDaemon makes what a daemon needs, of which waiting is the daemon's end of start. Its
// socket has no file yet: the daemon waits for listen, release and close.
func newDaemon() (_ *daemon, waiting *os.File, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the shim's socket: %w", err)
	}
	d := &daemon{socket: os.NewFile(uintptr(fd), "socket"), patience: giveWay}
	if waiting, d.start, err = os.Pipe(); err != nil {
		d.close()
		return nil, nil, err
	}
	return d, waiting, nil
}

// arguments and environment are a daemon's.
func arguments(params *bootapi.BootstrapParams) []string {
	args := []string{"-namespace", params.GetNamespace(), "-id", params.GetInstanceID(), "-address", params.GetContainerdGrpcAddress()}
	if params.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG {
		args = append(args, "-debug")
	}
	return args
}

func environment(tracing config.Tracing, began time.Time) []string {
	own := append(tracing.Environment(), spare.Processors, daemonEnv+"="+strconv.FormatInt(began.UnixNano(), 10))
	return append(os.Environ(), own...)
}

// takeDaemon hands what a daemon needs over to a spare of a size; nil if there is none.
func takeDaemon(pool spare.Pool, size spec.Size, params *bootapi.BootstrapParams, tracing config.Tracing, began time.Time) (*daemon, error) {
	d, waiting, err := newDaemon()
	if err != nil {
		return nil, err
	}
	defer waiting.Close()
	bundle, err := os.Open(".")
	if err != nil {
		d.close()
		return nil, err
	}
	defer bundle.Close()
	dir, err := os.Getwd()
	if err != nil {
		d.close()
		return nil, err
	}
	if !pool.Take(size, spare.Start{
		Args: arguments(params), Env: environment(tracing, began), Dir: dir, Nice: spare.Nice(),
		Socket: d.socket, Released: waiting, Bundle: bundle,
	}) {
		d.close()
		return nil, nil
	}
	return d, nil
}

// startDaemon runs this program again as the shim's daemon.
func startDaemon(params *bootapi.BootstrapParams, tracing config.Tracing, began time.Time) (_ *daemon, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d, waiting, err := newDaemon()
	if err != nil {
		return nil, err
	}
	defer waiting.Close()
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	cmd := exec.Command(self, arguments(params)...)
	cmd.Env = environment(tracing, began)
	cmd.ExtraFiles = []*os.File{d.socket, mounts, waiting}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the shim in a mount namespace of its own: %w", err)
	}
	d.process = cmd.Process
	if err := shim.AdjustOOMScore(d.process.Pid); err != nil {
		return nil, errors.Join(fmt.Errorf("adjusting the shim's OOM score: %w", err), d.kill())
	}
	return d, nil
}

// giveWay is how long a start waits for the earlier shim of its name. That has answered, and may
// still be waiting until containerd has taken its last events, for 5 s at most (rpc).
const giveWay = 6 * time.Second

// listen makes the file of the daemon's socket at an address, and has the socket listen
// there. The file of another socket is replaced if nobody serves that, and waited for if somebody
// does: start has asked whether that may go (refuseInUse).
func (d *daemon) listen(address string) error {
	err := d.bind(address)
	for deadline := time.Now().Add(d.patience); errors.Is(err, unix.EADDRINUSE) && shim.CanConnect(address) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		err = d.bind(address)
	}
	if errors.Is(err, unix.EADDRINUSE) && !shim.CanConnect(address) {
		if err := shim.RemoveSocket(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the socket of an earlier shim: %w", err)
		}
		err = d.bind(address)
	}
	if err != nil {
		return fmt.Errorf("making the shim's socket %s: %w", address, err)
	}
	if err := unix.Listen(int(d.socket.Fd()), unix.SOMAXCONN); err != nil {
		return errors.Join(fmt.Errorf("listening at %s: %w", address, err), shim.RemoveSocket(address))
	}
	return nil
}

// bind makes the file of the socket, which only its owner may use.
func (d *daemon) bind(address string) error {
	path := strings.TrimPrefix(address, "unix://")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// The file gets the rights of the socket (unix(7)).
	fd := int(d.socket.Fd())
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// kill ends the daemon, which has not served anyone yet.
func (d *daemon) kill() error {
	if d.process == nil {
		return nil // close does
	}
	if err := d.process.Kill(); err != nil {
		return err
	}
	_, err := d.process.Wait()
	return err
}

// release tells the daemon that its socket listens, and that the bundle knows of it.
func (d *daemon) release() error {
	if _, err := d.start.Write([]byte{1}); err != nil {
		return fmt.Errorf("letting the shim go on: %w", err)
	}
	return nil
}

// close lets the daemon go on by itself if it was released, or else end.
func (d *daemon) close() {
	d.socket.Close()
	if d.start != nil {
		d.start.Close()
	}
}

// IsDaemon tells whether this process is a daemon, which startDaemon has started.
func IsDaemon() bool { return os.Getenv(daemonEnv) != "" }

// HostMounts is the mount namespace that containerd is in, for the daemon.
func HostMounts() mountns.Namespace { return mountns.Of(os.NewFile(mountsFD, "mount namespace")) }

// Began is when containerd started the shim whose daemon this is, or now if it
// is none.
func Began() time.Time {
	nanoseconds, err := strconv.ParseInt(os.Getenv(daemonEnv), 10, 64)
	if err != nil {
		return time.Now()
	}
	return time.Unix(0, nanoseconds)
}

var errGivenUp = errors.New("containerd has given up starting this shim")

// Settle makes the daemon ready to serve: its socket has a file, and its log goes to
// containerd. It fails if containerd has given up on "start" meanwhile:
// nobody would know of the daemon. The daemon calls removeSocket when it ends.
func Settle() (removeSocket func() error, err error) {
	start := os.NewFile(startFD, "start")
	defer start.Close()
	released, err := io.Copy(io.Discard, start)
	if err != nil {
		return nil, fmt.Errorf("waiting for the shim's socket: %w", err)
	}
	address, err := unix.Getsockname(socketFD)
	if err != nil {
		return nil, fmt.Errorf("finding the shim's socket: %w", err)
	}
	bound, ok := address.(*unix.SockaddrUnix)
	if !ok || !filepath.IsAbs(bound.Name) {
		return nil, errGivenUp
	}
	removeSocket = func() error {
		if err := os.Remove(bound.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the shim's socket: %w", err)
		}
		return nil
	}
	if released == 0 {
		return nil, errors.Join(errGivenUp, removeSocket())
	}
	if err := openLog(); err != nil {
		return nil, errors.Join(err, removeSocket())
	}
	return removeSocket, nil
}

// logPatience is how long the daemon waits for containerd to open its end of the log, which
// it begins before it calls "start".
const logPatience = time.Second

// openLog makes the bundle's FIFO, which containerd reads, the daemon's standard error. It
// fails if nobody reads: containerd has given up on "start". pkg/shim would wait for a
// reader for ever.
func openLog() error {
	open := func() (*os.File, error) { return os.OpenFile("log", os.O_WRONLY|unix.O_NONBLOCK, 0) }
	log, err := open()
	for deadline := time.Now().Add(logPatience); errors.Is(err, unix.ENXIO) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		log, err = open()
	}
	if err != nil {
		return fmt.Errorf("opening containerd's log: %w", err)
	}
	defer log.Close()
	// From here on a write waits until containerd reads (fifo(7)).
	if err := unix.SetNonblock(int(log.Fd()), false); err != nil {
		return fmt.Errorf("opening containerd's log: %w", err)
	}
	if err := unix.Dup3(int(log.Fd()), unix.Stderr, 0); err != nil {
		return fmt.Errorf("opening containerd's log: %w", err)
	}
	return nil
}
