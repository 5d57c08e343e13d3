package shell

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Programs that this one is in the share.
const (
	sleeper = "msb-test-sleeper" // does not end
	leaver  = "msb-test-leaver"  // starts one, in the background as a shell does, and ends
	teller  = "msb-test-teller"  // tells of its terminal
	hungUp  = "msb-test-hung-up" // waits for the end of its terminal, and has another one in the foreground
	deaf    = "msb-test-deaf"    // takes no notice of that
	reader  = "msb-test-reader"  // prints what it reads, until its end
)

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case sleeper:
		time.Sleep(time.Hour)
	case leaver:
		cmd := exec.Command(filepath.Join(os.Getenv("TOOLS"), sleeper))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			os.Exit(2)
		}
		os.Exit(3)
	case teller:
		tell()
	case hungUp:
		awaitHangup()
	case deaf:
		signal.Ignore(unix.SIGHUP)
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	case reader:
		text, err := io.ReadAll(os.Stdin)
		fmt.Printf("read %q %v\n", text, err)
		os.Exit(4)
	}
	os.Exit(m.Run())
}

// inGuest runs f where a share has the programs, on a thread with mounts of its own, in a process
// that reaps as PID 1 does.
func inGuest(t *testing.T, f func(share string)) {
	t.Helper()
	const share = "dm_1"
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan os.Signal, 32)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	go func() {
		for range ended {
			_ = reaper.Reap()
		}
	}()
	err := thread.Run(func() error {
		self, err := os.ReadFile("/proc/self/exe")
		err = errors.Join(err,
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
			os.MkdirAll(api.SharePath(share), 0o755))
		for _, name := range []string{sleeper, leaver, teller, hungUp, deaf, reader} {
			err = errors.Join(err, os.WriteFile(filepath.Join(api.SharePath(share), name), self, 0o755))
		}
		if err == nil {
			f(share)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Nothing of it runs on.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); errors.Is(err, unix.ECHILD) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a program runs on")
		}
	}
}

// What a program has started in its session goes with it, and would keep its output open.
func TestServe(t *testing.T) {
	inGuest(t, func(share string) {
		host, guest := net.Pipe()
		exit := make(chan *api.ShellExit, 1)
		go func() {
			defer host.Close()
			var e api.ShellExit
			in := bufio.NewReader(host)
			var reply api.StreamReply
			if err := protodelim.UnmarshalFrom(in, &reply); err != nil || reply.Error != "" {
				t.Error(err, reply.Error)
			}
			if err := protodelim.UnmarshalFrom(in, &e); err != nil {
				t.Error(err)
			}
			exit <- &e
		}()
		Serve(t.Context(), guest, &api.ShellStream{Share: share, Args: []string{leaver}})
		if e := <-exit; e.Status != 3 {
			t.Errorf("status %d", e.Status)
		}
	})
}

// A host that goes away while a program starts, or later, ends it.
func TestServeGone(t *testing.T) {
	inGuest(t, func(share string) {
		host, guest := net.Pipe()
		host.Close()
		Serve(t.Context(), guest, &api.ShellStream{Share: share, Args: []string{sleeper}})
	})
}
