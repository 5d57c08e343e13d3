// Package kubernetes drives the runtime as Kubernetes does, and deploy/ as its
// administrator: kubectl and the node of hack/kubernetes. MSB_CLASS names the
// RuntimeClass of the pods; without it they run with runc, to show what is a fault of
// the runtime and what is not.
package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	node  = "node"
	image = "msb.test/busybox:latest"
	// patience is for a pod to come up: kubelet, and a VM in software emulation.
	patience = 3 * time.Minute
)

var (
	class = os.Getenv("MSB_CLASS")
	work  = os.Getenv("NODE_WORK")
)

func TestMain(m *testing.M) {
	if work == "" {
		fmt.Fprintln(os.Stderr, "kubernetes: these tests need the node of hack/kubernetes: make test-kubernetes")
		os.Exit(1)
	}
	if class == "msb" {
		if output, err := install(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "kubernetes: installing msb:", output, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// kubectl runs it; the error has what it said.
func kubectl(ctx context.Context, stdin string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", arguments...)
	var out, failed bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &failed
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s%s", strings.Join(arguments, " "), err, failed.String(), out.String())
	}
	return out.String(), err
}

func must(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := kubectl(t.Context(), "", arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := kubectl(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// of puts class and directories into a manifest.
func of(manifest string) string {
	line := "runtimeClassName: " + class
	if class == "" {
		line = "# runc"
	}
	return strings.NewReplacer("runtimeClassName: CLASS", line, "WORK", work, "OUTPUT", os.Getenv("MSB_OUTPUT")).Replace(manifest)
}

// start makes the pods of a manifest and waits until they are ready. They go with the
// test.
func start(t *testing.T, manifest string, pods ...string) {
	t.Helper()
	manifest = of(manifest)
	t.Cleanup(func() {
		if _, err := kubectl(context.Background(), manifest, "delete", "--ignore-not-found", "--timeout=2m", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	apply(t, manifest)
	for _, pod := range pods {
		if _, err := kubectl(t.Context(), "", "wait", "--for", "condition=Ready", "pod/"+pod, "--timeout", patience.String()); err != nil {
			described, _ := kubectl(t.Context(), "", "describe", "pod", pod)
			t.Fatalf("%v\n%s", err, described)
		}
	}
}

// single is the manifest of a pod of one container, which runs a shell script.
func single(name, script string, more ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  runtimeClassName: CLASS
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: %s
      imagePullPolicy: Never
      command: [sh, -c, %q]
%s`, name, image, script, strings.Join(more, "\n"))
}

// shell runs a script in the main container of a pod.
func shell(t *testing.T, pod, script string) string {
	t.Helper()
	return must(t, "exec", pod, "-c", "main", "--", "sh", "-c", script)
}

func want(t *testing.T, what, got, text string) {
	t.Helper()
	if !strings.Contains(got, text) {
		t.Errorf("%s: no %q in\n%s", what, text, got)
	}
}

// eventually waits until something holds, and fails with what it last said.
func eventually(t *testing.T, what string, long time.Duration, holds func() (said string, ok bool)) {
	t.Helper()
	end := time.Now().Add(long)
	for {
		said, ok := holds()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v; %s", what, long, said)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// shims lists the node's shims.
var shimName = regexp.MustCompile(`containerd-shim-[a-z]+-v2$`)

func shims() (pids []string) {
	programs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, program := range programs {
		if path, err := os.Readlink(program); err == nil && shimName.MatchString(strings.TrimSuffix(path, " (deleted)")) {
			pids = append(pids, filepath.Base(filepath.Dir(program)))
		}
	}
	return pids
}

// sandboxesGone is how long ended sandboxes, and with the Sandbox API their shims, may be
// there: kubelet removes them once a minute.
const sandboxesGone = 90 * time.Second

// nothingLeft sees at the end of a test that its pods left no shim and no mount.
func nothingLeft(t *testing.T) {
	t.Helper()
	state := func() string {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		groups := 0 // of version 1 or 2, of pods of each class of service
		for _, pattern := range []string{"memory/kubepods/pod*", "memory/kubepods/*/pod*", "kubepods/pod*", "kubepods/*/pod*"} {
			found, _ := filepath.Glob("/sys/fs/cgroup/" + pattern)
			groups += len(found)
		}
		return fmt.Sprintf("%d shims, %d mounts, %d control groups of pods", len(shims()), bytes.Count(mounts, []byte("\n")), groups)
	}
	before := state()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		eventually(t, "as many as before, "+before, sandboxesGone, func() (string, bool) { now := state(); return now, now == before })
	})
}
