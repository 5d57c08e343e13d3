package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

// settled names the file into which the daemon of a test writes how it settled.
const settled = "MSB_TEST_SETTLED"

func TestMain(m *testing.M) {
	if IsDaemon() {
		settleForTest(os.Getenv(settled))
		return
	}
	os.Exit(m.Run())
}

// settleForTest is a daemon that ends as soon as it could serve.
func settleForTest(file string) {
	removeSocket, err := Settle()
	text := "ready"
	if err != nil {
		text = err.Error()
	} else if err := removeSocket(); err != nil {
		text = err.Error()
	}
	_ = os.WriteFile(file+".new", []byte(text), 0o600)
	_ = os.Rename(file+".new", file)
}

// containerd kills "start" when its client goes away, and takes the bundle away. Whenever
// that is, the daemon ends, and so does the file of its socket.
func TestStartKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a mount namespace: run it as root")
	}
	for name, test := range map[string]struct {
		listen            func(*daemon, string) error
		logIsRead, bundle bool
		want              string
	}{
		"never":                                 {(*daemon).listen, true, true, "ready"},
		"before there is a socket":              {nil, true, true, "given up"},
		"before its socket listens":             {(*daemon).bind, true, true, "given up"},
		"before it is released":                 {(*daemon).listen, true, true, "given up"},
		"when nobody reads its log any more":    {(*daemon).listen, false, true, "opening containerd's log"},
		"when there is a socket, and no bundle": {(*daemon).listen, true, false, "opening containerd's log"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outcome, socket := filepath.Join(dir, "settled"), filepath.Join(dir, "sockets", "socket")
			t.Setenv(settled, outcome)
			t.Setenv("GORACE", "atexit_sleep_ms=0")
			bundle := filepath.Join(dir, "bundle")
			log := filepath.Join(bundle, "log")
			if err := errors.Join(os.Mkdir(bundle, 0o700), unix.Mkfifo(log, 0o600)); err != nil {
				t.Fatal(err)
			}
			if test.logIsRead {
				reader, err := os.OpenFile(log, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer reader.Close()
			}
			t.Chdir(bundle)
			d, err := startDaemon(&bootapi.BootstrapParams{InstanceID: "box", Namespace: "space"}, config.Tracing{}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if test.listen != nil {
				if err := test.listen(d, "unix://"+socket); err != nil {
					t.Fatal(err)
				}
				if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("the socket is %v, %v", info, err)
				}
			}
			if !strings.HasPrefix(name, "before") {
				if err := d.release(); err != nil {
					t.Fatal(err)
				}
			}
			if !test.bundle {
				if err := os.RemoveAll(bundle); err != nil {
					t.Fatal(err)
				}
			}
			d.close()
			if _, err := d.process.Wait(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(outcome); err != nil || !strings.Contains(string(got), test.want) {
				t.Errorf("the daemon settles with %q, %v", got, err)
			}
			if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its socket is left: %v", err)
			}
		})
	}
}

// The file of a socket that nobody serves is replaced, another's is not.
func TestListenAgain(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "socket")
	open := func() *daemon {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &daemon{socket: os.NewFile(uintptr(fd), "socket")}
	}
	first := open()
	if err := first.listen(address); err != nil {
		t.Fatal(err)
	}
	second := open()
	if err := second.listen(address); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), address) {
		t.Errorf("a socket that is served: %v", err)
	}
	first.close()
	if err := second.listen(address); err != nil || !shim.CanConnect(address) {
		t.Errorf("a socket that nobody serves: %v", err)
	}
	third := open()
	defer third.close()
	third.patience = time.Minute
	go func() {
		time.Sleep(20 * time.Millisecond)
		second.close()
	}()
	if err := third.listen(address); err != nil || !shim.CanConnect(address) {
		t.Errorf("a socket that is served for a moment: %v", err)
	}
}
