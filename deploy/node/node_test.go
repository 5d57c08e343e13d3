package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/deploy/containerd"
	"github.com/msb-runtime/containerd-shim-msb/deploy/kit"
)

// A machine is a node whose containerd has the configuration that it reads, and
// counts restarts.
type machine struct {
	Node
	dir      string
	restarts atomic.Int32
	fails    error // of the restart
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	m := &machine{dir: dir}
	m.write(t, "etc/config.toml", "version = 3\nimports = ['conf.d/*.toml']\n")
	m.Kit = kit.Store{Dir: filepath.Join(dir, "opt", "msb"), Proc: "/proc"}
	m.Containerd = containerd.Containerd{
		Config: filepath.Join(dir, "etc", "config.toml"), Prefix: m.Kit.Dir,
		Dump: func(context.Context) ([]byte, error) {
			dropIn, err := os.ReadFile(filepath.Join(dir, "etc", "conf.d", "msb.toml"))
			if errors.Is(err, os.ErrNotExist) {
				return []byte("version = 3"), nil
			}
			return dropIn, err
		},
		Restart: func(context.Context) error { m.restarts.Add(1); return m.fails },
	}
	return m
}

func (m *machine) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(m.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// clean is nil if nothing of msb is on the machine.
func (m *machine) clean() error {
	var left []string
	for _, path := range []string{m.Kit.Dir, filepath.Join(m.dir, "etc", "conf.d", "msb.toml")} {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	if left != nil {
		return errors.New(strings.Join(left, " and ") + " left")
	}
	return nil
}

func kitOf(shim string) fstest.MapFS {
	return fstest.MapFS{
		"bin/containerd-shim-msb-v2": {Data: []byte(shim), Mode: 0o755},
		"lib/msb/vmlinux":            {Data: []byte("kernel")},
	}
}

func (m *machine) install(t *testing.T, shim, holder string) {
	t.Helper()
	if err := m.Install(context.Background(), kitOf(shim), holder); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(m.Kit.Dir, "current", "bin", "containerd-shim-msb-v2"))
	if err != nil || string(got) != shim {
		t.Fatalf("the shim is %.10q, %v, want %.10q", got, err, shim)
	}
}

func TestInstallUninstall(t *testing.T) {
	m := newMachine(t)
	m.install(t, "1", "a")
	m.install(t, "1", "a") // a container that starts again
	m.install(t, "2", "b") // an upgrade, whose pod is there before the old one goes
	if m.restarts.Load() != 1 {
		t.Errorf("containerd was restarted %d times by two installations and an upgrade, want once", m.restarts.Load())
	}
	if err := m.Uninstall(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	if m.clean() == nil || m.restarts.Load() != 1 {
		t.Errorf("the old pod took the new one's installation off (%d restarts)", m.restarts.Load())
	}
	if err := m.Uninstall(context.Background(), "b"); err != nil {
		t.Fatal(err)
	}
	if err := m.clean(); err != nil || m.restarts.Load() != 2 {
		t.Errorf("uninstalled: %v, %d restarts", err, m.restarts.Load())
	}
	if err := errors.Join(m.Uninstall(context.Background(), "b"), m.clean()); err != nil {
		t.Errorf("uninstalled where nothing is: %v", err)
	}
	m.install(t, "1", "c")
}

// What fails leaves the node as it was: with nothing, or with the version before.
func TestFailedInstall(t *testing.T) {
	m := newMachine(t)
	m.fails = errors.New("containerd.service failed")
	if err := m.Install(context.Background(), kitOf("1"), "a"); !errors.Is(err, m.fails) {
		t.Errorf("Install = %v", err)
	}
	left, err := os.ReadDir(m.Kit.Dir)
	if err != nil || len(left) != 1 || left[0].Name() != "restart-containerd" {
		t.Errorf("left is %v, %v", left, err)
	}
	m.fails = nil
	m.install(t, "1", "a")
	m.write(t, "etc/config.toml", "version = 3\nimports = ['other/*.toml']\n")
	m.write(t, "etc/other/msb.toml", "version = 3")
	m.fails = errors.New("containerd.service failed")
	if err := m.Install(context.Background(), kitOf("2"), "b"); !errors.Is(err, m.fails) {
		t.Errorf("Install = %v", err)
	}
	got, err := os.ReadFile(filepath.Join(m.Kit.Dir, "current", "bin", "containerd-shim-msb-v2"))
	if err != nil || string(got) != "1" {
		t.Errorf("after a failed upgrade the shim is %q, %v", got, err)
	}
	if holder, err := m.Kit.Holder(); err != nil || holder != "a" {
		t.Errorf("after a failed upgrade the holder is %q, %v", holder, err)
	}
}

// A VM that runs keeps its kit until it ends, and its pods are refused meanwhile.
func TestUninstallWaits(t *testing.T) {
	m := newMachine(t)
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	m.install(t, string(sleep), "a")
	shim := exec.Command(filepath.Join(m.Kit.Dir, "current", "bin", "containerd-shim-msb-v2"), "600")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _, _ = shim.Process.Kill(), shim.Wait() }
	defer end()
	short, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	if err := m.Uninstall(short, "a"); err == nil || !strings.Contains(err.Error(), "still run from the kit") {
		t.Errorf("Uninstall while a VM runs = %v", err)
	}
	if current, err := m.Kit.Current(); err != nil || current != "" || m.restarts.Load() != 2 {
		t.Errorf("new VMs are started from %q (%v), %d restarts", current, err, m.restarts.Load())
	}
	done := make(chan error)
	m.install(t, string(sleep), "b")
	go func() { done <- m.Uninstall(context.Background(), "b") }()
	select {
	case err := <-done:
		t.Fatalf("uninstalled while a VM runs: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := m.clean(); err != nil {
		t.Error(err)
	}
}

// Who waits to uninstall leaves it to the one that has installed meanwhile.
func TestInstallWhileUninstallWaits(t *testing.T) {
	m := newMachine(t)
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	m.install(t, string(sleep), "a")
	shim := exec.Command(filepath.Join(m.Kit.Dir, "current", "bin", "containerd-shim-msb-v2"), "600")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = shim.Process.Kill(), shim.Wait() }()
	done := make(chan error)
	go func() { done <- m.Uninstall(context.Background(), "a") }()
	for {
		if holder, err := m.Kit.Holder(); err == nil && holder == "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.install(t, "2", "b")
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it still waits for the VM")
	}
	m.install(t, "2", "b")
}
