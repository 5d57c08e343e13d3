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
	"strconv"
	"strings"
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

// programs are what each of them does. One that returns has failed, or was to be killed before.
var programs = map[string]func(){
	sleeper: func() { time.Sleep(time.Hour) },
	leaver: func() {
		cmd := exec.Command(filepath.Join(os.Getenv("TOOLS"), sleeper))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err == nil {
			os.Exit(3)
		}
	},
	teller: tell,
	hungUp: awaitHangup,
	deaf: func() {
		signal.Ignore(unix.SIGHUP)
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	},
	reader: func() {
		text, err := io.ReadAll(os.Stdin)
		fmt.Printf("read %q %v\n", text, err)
		os.Exit(4)
	},
}

// patience is how long a test waits for one thing. It bounds what never comes.
const patience = 10 * time.Minute

func TestMain(m *testing.M) {
	if program, is := programs[filepath.Base(os.Args[0])]; is {
		program()
		os.Exit(2)
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
		for name := range programs {
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
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); errors.Is(err, unix.ECHILD) {
			return
		}
		if time.Now().After(deadline) {
			killChildren(t)
			t.Fatal("a program runs on")
		}
	}
}

// killChildren kills the children of this process, and theirs, which are its own then.
func killChildren(t *testing.T) {
	t.Helper()
	for {
		lists, err := filepath.Glob("/proc/self/task/*/children") // of each thread
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range lists {
			pids, _ := os.ReadFile(list) // of a thread that has ended an error
			for _, field := range strings.Fields(string(pids)) {
				if pid, err := strconv.Atoi(field); err == nil {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			return
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
