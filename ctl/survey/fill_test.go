package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A shim's program gets the request and containerd's environment, and what it says is the error.
// It is ended with its caller.
func TestFillSpares(t *testing.T) {
	dir := t.TempDir()
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "shim")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	request := spare.Request{Address: filepath.Join(dir, "containerd"), Events: filepath.Join(dir, "ttrpc"), Size: spec.Size{CPUs: 3}, Count: 2}
	fails := func(what, program, want string) {
		t.Helper()
		if err := FillSpares(t.Context(), program, request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	fails("no containerd", script("exit 0"), "containerd has ended, or is not there")
	listen := func(path string) {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
	}
	listen(request.Address)
	fails("no ttrpc", script("exit 0"), "ttrpc server")
	listen(request.Events)

	// This process is containerd. Its environment is the one that it was started with.
	said := filepath.Join(dir, "said")
	t.Setenv("MSB_TEST_LATER", "1")
	if err := FillSpares(t.Context(), script(`echo "$MSB_SHIM_FILL" >`+said+`; env >>`+said), request); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	order, rest, _ := strings.Cut(string(data), "\n")
	request.Containerd = os.Getpid()
	var got spare.Request
	if err := json.Unmarshal([]byte(order), &got); err != nil || got != request {
		t.Errorf("the request is %s, %v", order, err)
	}
	if !strings.Contains(rest, "PATH="+os.Getenv("PATH")+"\n") || strings.Contains(rest, "MSB_TEST_LATER") {
		t.Errorf("the environment is %s", rest)
	}

	fails("an error", script(`echo "io.containerd.msb.v2: no kernel" >&2; exit 1`), "no kernel")
	if err := FillSpares(t.Context(), script(`echo "io.containerd.msb.v2: no kernel" >&2; exit 1`), request); err.Error() != "no kernel" {
		t.Errorf("the error is %v", err)
	}
	fails("no word", script("exit 1"), "exit status 1")
	fails("no program", filepath.Join(dir, "none"), "running "+filepath.Join(dir, "none")+" where containerd is")

	started := filepath.Join(dir, "started")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(started); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := FillSpares(ctx, script("touch "+started+"; exec sleep 1000"), request); !errors.Is(err, context.Canceled) {
		t.Errorf("ended by its caller: %v", err)
	}
}

// Of a containerd that has changed its root, a program is started below that.
func TestStartAtRoot(t *testing.T) {
	root := t.TempDir()
	containerd := exec.Command("sleep", "1000")
	// The host's files are in it once more, and in one of its directories there is another.
	err := mountns.Namespace{}.Copy(func() error {
		mnt := filepath.Join(root, "mnt")
		if err := errors.Join(unix.Mount("/", root, "", unix.MS_BIND|unix.MS_REC, ""), unix.Mount("msb-test", mnt, "tmpfs", 0, "")); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(mnt, "below"), nil, 0o600); err != nil {
			return err
		}
		containerd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		containerd.Dir = "/"
		return containerd.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = containerd.Process.Kill()
		_ = containerd.Wait()
	})
	var said bytes.Buffer
	program := exec.Command("/bin/sh", "-c", "cd /mnt && echo *")
	program.Dir, program.Stdout = "/", &said
	if err := startAt(program, containerd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil || said.String() != "below\n" {
		t.Errorf("the program sees %q, %v", said.String(), err)
	}
}
