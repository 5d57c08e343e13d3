// Package docker drives the runtime as Docker's users do: Docker Engine itself, its command
// and compose, on a containerd and in a network namespace of the test's own. What runc
// makes of the same commands stands beside it in docs/docker-table.md.
package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// Runtimes of the engine.
const (
	msb  = "msb"
	runc = "runc"
	// misconfigured is the runtime under test with settings in a file that is not there.
	misconfigured = "msb-misconfigured"
	nowhere       = "/nowhere/msb.toml"
)

// builder is the control group of the engine's builder, below its own. It is left to whoever
// ends the engine.
const builder = "/buildkit"

// An engine is a dockerd. Its directory is in containerd's, which goes with everything.
type engine struct {
	dir     string
	process *exec.Cmd
	ended   <-chan struct{} // closed when the process has ended
}

var (
	host   *harness.Host
	daemon *engine
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(h *harness.Host) (code int) {
		host = h
		var err error
		if daemon, err = newEngine(); err == nil {
			err = daemon.start()
		}
		if err == nil {
			// The engine keeps a mount of the host's network from when it was asked for it first.
			if output, code := shell(context.Background(), "docker load -i "+filepath.Join(host.Output, "images", "busybox.tar")+
				" && docker run --rm --network host --runtime "+runc+" "+harness.Image+" true"); code != 0 {
				err = fmt.Errorf("running the first container: %s", output)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "starting Docker Engine:", err, "\n"+daemon.log())
			if err := harness.Detach(daemon.dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return 1
		}
		defer func() {
			if code != 0 {
				fmt.Fprintln(os.Stderr, "--- the end of dockerd's log:\n"+tail(daemon.log(), 20))
			}
			daemon.stop(syscall.SIGTERM)
			harness.RemoveGroup("/" + harness.Namespace + builder)
			if err := harness.Detach(daemon.dir); err != nil {
				fmt.Fprintln(os.Stderr, "ending Docker Engine:", err)
				code = 1
			}
		}()
		return m.Run()
	}))
}

// programs is where hack/docker has put the engine's packages.
func programs(elements ...string) string {
	return filepath.Join(append([]string{host.Output, "cache", "docker", "usr"}, elements...)...)
}

// newEngine configures one. All that dockerd cannot be told to have elsewhere is hidden from
// it: this process has a mount namespace of its own.
func newEngine() (*engine, error) {
	e := &engine{dir: filepath.Join(host.Dir, "docker")}
	if err := os.MkdirAll(e.config(), 0o700); err != nil {
		return nil, err
	}
	for _, dir := range []string{"/run/docker", "/etc/docker"} {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) && dir != "/run/docker" {
			continue // the host does not get one
		}
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=711"); err != nil {
			return nil, os.NewSyscallError("mount", err)
		}
	}
	plugins, err := json.Marshal(map[string]any{"cliPluginsExtraDirs": []string{programs("libexec", "docker", "cli-plugins")}})
	if err != nil {
		return nil, err
	}
	settings, err := json.MarshalIndent(e.settings(), "", "  ")
	if err != nil {
		return nil, err
	}
	return e, errors.Join(
		os.WriteFile(filepath.Join(e.config(), "config.json"), plugins, 0o600),
		os.WriteFile(filepath.Join(e.dir, "daemon.json"), settings, 0o600))
}

// settings is daemon.json. The namespace and the control group are those in which the harness
// looks for what is left behind.
func (e *engine) settings() map[string]any {
	type runtime struct {
		Type    string         `json:"runtimeType"`
		Options map[string]any `json:"options"`
	}
	return map[string]any{
		"runtimes": map[string]any{
			msb:           runtime{harness.Runtime, map[string]any{"ConfigPath": host.Config}},
			misconfigured: runtime{harness.Runtime, map[string]any{"ConfigPath": nowhere}},
		},
		"containerd": host.Address(), "containerd-namespace": harness.Namespace,
		"cgroup-parent": "/" + harness.Namespace, "exec-opts": []string{"native.cgroupdriver=cgroupfs"},
		"data-root": e.data(), "exec-root": filepath.Join(e.dir, "exec"), "pidfile": filepath.Join(e.dir, "pid"),
		"hosts": []string{e.address()}, "storage-driver": "overlay2", "live-restore": true,
	}
}

func (e *engine) config() string  { return filepath.Join(e.dir, "config") }
func (e *engine) address() string { return "unix://" + filepath.Join(e.dir, "docker.sock") }

// data is where it keeps what it has, or something below.
func (e *engine) data(elements ...string) string {
	return filepath.Join(append([]string{e.dir, "data"}, elements...)...)
}

func (e *engine) log() string {
	if e == nil {
		return ""
	}
	log, _ := os.ReadFile(filepath.Join(e.dir, "log"))
	return string(log)
}

// environment is for programs that are the engine or talk to it.
func environment() []string {
	return append(os.Environ(), "DOCKER_HOST="+daemon.address(), "DOCKER_CONFIG="+daemon.config(), "TMPDIR="+daemon.dir,
		"PATH="+strings.Join([]string{programs("bin"), programs("sbin"), filepath.Join(host.Output, "bin"), filepath.Join(host.Output, "tools"), os.Getenv("PATH")}, ":"))
}

// start starts it in containerd's network namespace and waits until it serves.
func (e *engine) start() error {
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	daemon = e
	e.process = exec.Command(programs("sbin", "dockerd"), "--config-file", filepath.Join(e.dir, "daemon.json"))
	e.process.Env, e.process.Stdout, e.process.Stderr = environment(), log, log
	if e.ended, err = host.StartBeside(e.process); err != nil {
		return err
	}
	var output string
	ready := harness.Eventually(func() bool {
		select {
		case <-e.ended:
			return true
		default:
		}
		var code int
		output, code = shell(context.Background(), "docker version")
		return code == 0
	})
	select {
	case <-e.ended:
		return errors.New("dockerd has ended")
	default:
	}
	if !ready {
		return fmt.Errorf("dockerd does not serve: %s", output)
	}
	return nil
}

// stop ends it by a signal. Containers run on: it has live-restore.
func (e *engine) stop(signal syscall.Signal) {
	_ = e.process.Process.Signal(signal)
	<-e.ended
}

// shell runs a script for sh that may call docker, and returns all that it printed.
func shell(ctx context.Context, script string, variables ...string) (output string, code int) {
	ctx, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	host.SettleSpares()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	cmd.Env, cmd.Dir = append(environment(), variables...), daemon.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := host.InNetwork(cmd.Start)
	if err == nil {
		_ = cmd.Wait()
	}
	if ctx.Err() != nil {
		return out.String(), 124 // as timeout(1) says it
	}
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
