// Package nerdctl drives the runtime as nerdctl's users do: nerdctl itself, its OCI
// hooks, CNI plugins and iptables, in a network namespace of the test's own.
package nerdctl

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var (
	host *harness.Host
	dir  string
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(h *harness.Host) (code int) {
		host = h
		// What nerdctl keeps for itself goes with containerd's.
		var err error
		if dir, err = os.MkdirTemp(host.Dir, "nerdctl-"); err != nil {
			fmt.Fprintln(os.Stderr, "nerdctl:", err)
			return 1
		}
		return m.Run()
	}, harness.ErofsSize("64MiB")))
}

// nerdctl runs it in containerd's network namespace.
func nerdctl(t *testing.T, arguments ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	host.SettleSpares()
	cmd := exec.CommandContext(ctx, filepath.Join(host.Output, "tools", "nerdctl"), append([]string{
		"--address", host.Address(), "--namespace", harness.Namespace, "--cgroup-manager", "cgroupfs",
		"--data-root", filepath.Join(dir, "data"), "--cni-path", filepath.Join(host.Output, "cni"), "--cni-netconfpath", filepath.Join(dir, "net.d"),
	}, arguments...)...)
	cmd.Dir, cmd.Env = dir, host.ClientEnvironment() // nerdctl cp leaves a directory
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = host.InNetwork(cmd.Start); err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

func must(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := nerdctl(t, arguments...)
	if err != nil {
		t.Errorf("nerdctl %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return output
}

func want(t *testing.T, text string, output string) {
	t.Helper()
	if !strings.Contains(output, text) {
		t.Errorf("no %q in\n%s", text, output)
	}
}

// container is the command line of a container with the probe, up to its image.
func container(options ...string) []string {
	return append(append([]string{
		"--pull", "never", "--runtime", harness.Runtime, "-v", filepath.Join(host.Output, "tools") + ":/probe:ro",
	}, options...), harness.Image)
}

func runContainer(t *testing.T, options []string, command ...string) string {
	t.Helper()
	return must(t, append(append([]string{"run"}, container(options...)...), command...)...)
}

// connect talks to an echo server from the host's network.
func connect(t *testing.T, address string) string {
	t.Helper()
	var out bytes.Buffer
	try := func() error {
		out.Reset()
		cmd := exec.Command(filepath.Join(host.Output, "tools", "probe"), "connect", address, "hello")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := host.InNetwork(cmd.Start); err != nil {
			return err
		}
		return cmd.Wait()
	}
	// A container runs before its program listens.
	err := try()
	for deadline := time.Now().Add(harness.Patience); err != nil && time.Now().Before(deadline); err = try() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("connecting to %s: %v", address, err)
	}
	return out.String()
}

func TestNerdctl(t *testing.T) {
	before := host.Leftovers()
	runContainer(t, []string{"-d", "--name", "web", "-p", "8080:7"}, "/probe/probe", "echo", "7")
	t.Run("exec, and the files of the network", func(t *testing.T) {
		shown := must(t, "exec", "web", "sh", "-c", "ip addr show eth0; ip route; cat /etc/hosts /etc/resolv.conf; hostname")
		for _, text := range []string{"inet 10.4.0.", "default via 10.4.0.1", "web", "nameserver"} {
			want(t, text, shown)
		}
		if output, err := nerdctl(t, "exec", "web", "sh", "-c", "exit 7"); err == nil || !strings.Contains(output, "exit code 7") {
			t.Errorf("exec of a command that fails: %v: %s", err, output)
		}
	})
	t.Run("a published port", func(t *testing.T) {
		for _, address := range []string{"tcp:127.0.0.1:8080", "tcp:10.4.0.1:8080"} {
			want(t, "hello\n", connect(t, address))
		}
	})
	t.Run("another container, by name", func(t *testing.T) {
		want(t, "by name\n", runContainer(t, []string{"--rm"}, "/probe/probe", "connect", "tcp:web:7", "by name"))
	})
	t.Run("no network, and the host's", func(t *testing.T) {
		if links := runContainer(t, []string{"--rm", "--network", "none"}, "ls", "/sys/class/net"); strings.TrimSpace(links) != "lo" {
			t.Errorf("with none: %s", links)
		}
		want(t, "of the host\n", runContainer(t, []string{"--rm", "--network", "host"}, "/probe/probe", "connect", "tcp:10.4.0.1:8080", "of the host"))
	})
	t.Run("ps, logs, stats", func(t *testing.T) {
		want(t, "0.0.0.0:8080->7/tcp", must(t, "ps"))
		want(t, "listening", must(t, "logs", "web"))
		want(t, "iB / ", must(t, "stats", "--no-stream", "web"))
	})
	copied := func(t *testing.T, name string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, "cp", file, "web:/etc/"+name)
		must(t, "cp", "web:/etc/"+name, file+".back")
		if content, err := os.ReadFile(file + ".back"); string(content) != "content" {
			t.Errorf("came back as %q, %v", content, err)
		}
	}
	t.Run("cp", func(t *testing.T) {
		copied(t, "running")
		want(t, "content", must(t, "exec", "web", "cat", "/etc/running"))
	})
	must(t, "stop", "--time", "1", "web")
	t.Run("cp with a stopped container", func(t *testing.T) { copied(t, "stopped") })
	must(t, "start", "web")
	want(t, "content", must(t, "exec", "web", "cat", "/etc/stopped"))
	want(t, "hello\n", connect(t, "tcp:127.0.0.1:8080"))
	must(t, "rm", "-f", "web")
	if left := host.New(before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

const compose = `services:
  server:
    image: %[1]s
    pull_policy: never
    runtime: %[2]s
    command: /probe/probe echo 7
    volumes: ["%[3]s:/probe:ro"]
  client:
    image: %[1]s
    pull_policy: never
    runtime: %[2]s
    command: sh -c 'sleep 1; /probe/probe connect tcp:server:7 "by the name of the service"; sleep 1000'
    volumes: ["%[3]s:/probe:ro"]
    depends_on: [server]
`

// Two services find each other by name.
func TestCompose(t *testing.T) {
	before := host.Leftovers()
	file := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, compose, harness.Image, harness.Runtime, filepath.Join(host.Output, "tools")), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "compose", "-f", file, "up", "-d")
	var logs string
	harness.Eventually(func() bool {
		logs = must(t, "compose", "-f", file, "logs")
		return strings.Contains(logs, "by the name of the service")
	})
	want(t, "by the name of the service", logs)
	must(t, "compose", "-f", file, "down")
	if left := host.New(before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}
