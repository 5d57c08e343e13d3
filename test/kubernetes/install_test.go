package kubernetes

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	deploy = "../../deploy"
	label  = "io.containerd.msb/runtime"
	dropIn = "/etc/containerd/conf.d/msb.toml"
	kit    = "/opt/msb"
)

// install is the two commands of docs/kubernetes.md, and waits.
func install(ctx context.Context) (string, error) {
	var all strings.Builder
	for _, arguments := range [][]string{
		{"apply", "-k", deploy},
		{"label", "node", node, label + "=true", "--overwrite"},
		{"-n", "msb", "rollout", "status", "daemonset/msb-install", "--timeout", patience.String()},
	} {
		// A node that has just got its label is one of the DaemonSet's a moment later.
		output, err := kubectl(ctx, "", arguments...)
		all.WriteString(output)
		if err != nil {
			return all.String(), err
		}
	}
	_, err := kubectl(ctx, "", "-n", "msb", "wait", "--for", "jsonpath={.status.numberReady}=1", "daemonset/msb-install", "--timeout", patience.String())
	return all.String(), err
}

func mustInstall(t *testing.T) {
	t.Helper()
	if output, err := install(t.Context()); err != nil {
		pods, _ := kubectl(t.Context(), "", "-n", "msb", "describe", "pods")
		logs, _ := kubectl(t.Context(), "", "-n", "msb", "logs", "daemonset/msb-install", "--all-containers")
		t.Fatalf("%s%v\n%s%s", output, err, pods, logs)
	}
}

// containerd is the process id of the node's.
func containerd(t *testing.T) string {
	t.Helper()
	pid, err := os.ReadFile("/run/services/containerd")
	if err != nil {
		t.Fatal(err)
	}
	return string(pid)
}

func version(t *testing.T) string {
	t.Helper()
	version, err := os.Readlink(filepath.Join(kit, "current"))
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func clean() (left string, ok bool) {
	for _, path := range []string{kit, dropIn} {
		if _, err := os.Lstat(path); err == nil {
			left += path + " "
		}
	}
	return left + "left", left == ""
}

// deploy/ on a node that has pods: they are not disturbed.
func TestInstall(t *testing.T) {
	start(t, strings.ReplaceAll(single("bystander", "sleep infinity"), "runtimeClassName: CLASS", "# runc"), "bystander")
	bystander := func() string {
		must(t, "exec", "bystander", "--", "true")
		return must(t, "get", "pod", "bystander", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}")
	}
	before, containerdBefore, installed := bystander(), containerd(t), class == "msb"
	if installed {
		defer mustInstall(t) // for the tests after this one
	}

	mustInstall(t)
	for _, path := range []string{dropIn, kit + "/current/bin/containerd-shim-msb-v2", kit + "/current/lib/msb/guest.erofs", kit + "/current/config.toml"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	once := containerd(t)
	if (once == containerdBefore) != installed {
		t.Errorf("containerd was process %s and is %s; msb was installed before: %v", containerdBefore, once, installed)
	}
	eventually(t, "the node's runtimes", time.Minute, func() (string, bool) {
		handlers := must(t, "get", "node", node, "-o", "jsonpath={.status.runtimeHandlers[*].name}")
		return handlers, strings.Contains(" "+handlers+" ", " msb ")
	})

	t.Run("upgrade", func(t *testing.T) { upgrade(t, once) })
	t.Run("the label is removed", func(t *testing.T) {
		end := runFromKit(t)
		must(t, "label", "node", node, label+"-")
		eventually(t, "containerd's file", time.Minute, func() (string, bool) {
			_, err := os.Stat(dropIn)
			return "it is there", errors.Is(err, os.ErrNotExist)
		})
		time.Sleep(3 * time.Second)
		if pods := must(t, "-n", "msb", "get", "pods", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}"); pods == "" {
			t.Error("the pod does not wait for what runs from its kit")
		}
		if _, err := os.Stat(filepath.Join(kit, "versions")); err != nil {
			t.Errorf("the kit did not stay for what runs from it: %v", err)
		}
		end()
		eventually(t, "the node", time.Minute, clean)
		eventually(t, "the node's runtimes", time.Minute, func() (string, bool) {
			handlers := must(t, "get", "node", node, "-o", "jsonpath={.status.runtimeHandlers[*].name}")
			return handlers, !strings.Contains(" "+handlers+" ", " msb ")
		})
	})
	t.Run("the DaemonSet is deleted", func(t *testing.T) {
		mustInstall(t)
		must(t, "delete", "-k", deploy, "--timeout", "2m")
		eventually(t, "the node", time.Minute, clean)
	})
	t.Run("a containerd that imports nothing", refuses)
	if after := bystander(); after != before {
		t.Errorf("the pod beside was %s and is %s", before, after)
	}
}

// runFromKit starts a process of a program in the kit, as a VM's are.
func runFromKit(t *testing.T) (end func()) {
	t.Helper()
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(kit, "current", "bin", "sleep")
	if err := os.WriteFile(program, sleep, 0o755); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(program, "600")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() { _, _ = process.Process.Kill(), process.Wait() })
	t.Cleanup(end)
	return end
}

// Another configuration is another version. The old pod ends after the new one is
// ready, and leaves everything to it.
func upgrade(t *testing.T, containerdBefore string) {
	old := version(t)
	overlay := filepath.Join(work, "overlay")
	if err := os.CopyFS(overlay, os.DirFS(deploy)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(overlay, "config.toml"), []byte("[vm]\npod_annotations = true\nmemory = \"256MiB\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "apply", "-k", overlay)
	must(t, "-n", "msb", "rollout", "status", "daemonset/msb-install", "--timeout", patience.String())
	eventually(t, "one pod", time.Minute, func() (string, bool) {
		pods := must(t, "-n", "msb", "get", "pods", "-o", "name")
		return pods, strings.Count(pods, "\n") == 1
	})
	if now := version(t); now == old {
		t.Errorf("still version %s", now)
	}
	if _, err := os.Stat(filepath.Join(kit, old)); err == nil {
		t.Errorf("%s is left, and nothing runs from it", old)
	}
	if now := containerd(t); now != containerdBefore {
		t.Errorf("containerd was restarted, process %s is %s", containerdBefore, now)
	}
}

// The pod says what to do, and the node is as before.
func refuses(t *testing.T) {
	const config = "/etc/containerd/config.toml"
	content, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(content), "imports", "# imports", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(config, content, 0o644); err != nil {
			t.Error(err)
		}
	}()
	must(t, "apply", "-k", deploy)
	must(t, "label", "node", node, label+"=true")
	eventually(t, "the advice", patience, func() (string, bool) {
		log, err := kubectl(t.Context(), "", "-n", "msb", "logs", "daemonset/msb-install", "-c", "install")
		return log, err == nil && strings.Contains(log, "add imports =")
	})
	if left, ok := clean(); !ok {
		t.Error(left)
	}
	must(t, "label", "node", node, label+"-")
	must(t, "delete", "-k", deploy, "--timeout", "2m")
}
