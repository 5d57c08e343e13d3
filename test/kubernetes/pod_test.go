package kubernetes

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What kubectl does with a pod.
func TestPod(t *testing.T) {
	nothingLeft(t)
	start(t, single("web", `mkdir /www && echo served >/www/index.html && httpd -p 80 -h /www; echo started; while read line; do echo "read $line"; done; sleep 600`, "      stdin: true"), "web")
	t.Run("exec", func(t *testing.T) {
		want(t, "the pod's name", shell(t, "web", "hostname"), "web")
		_, err := kubectl(t.Context(), "", "exec", "web", "--", "sh", "-c", "exit 7")
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("exec of exit 7: %v", err)
		}
		output, err := kubectl(t.Context(), "from stdin", "exec", "-i", "web", "--", "cat")
		if err != nil || output != "from stdin" {
			t.Errorf("exec -i cat: %q, %v", output, err)
		}
	})
	t.Run("logs", func(t *testing.T) {
		want(t, "logs", must(t, "logs", "web"), "started")
	})
	t.Run("attach", func(t *testing.T) {
		output, err := kubectl(t.Context(), "a line\n", "attach", "-i", "web")
		if err != nil {
			t.Fatal(err)
		}
		want(t, "attach, or the log after it", output+must(t, "logs", "web"), "read a line")
	})
	t.Run("cp", copies)
	t.Run("port-forward", forwards)
	t.Run("another pod, by address", func(t *testing.T) {
		address := must(t, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
		start(t, single("client", "wget -qO- http://"+address+"/ && sleep 600"), "client")
		eventually(t, "the answer", 10*time.Second, func() (string, bool) { log := must(t, "logs", "client"); return log, log == "served\n" })
	})
	t.Run("the node, by address", func(t *testing.T) {
		address := must(t, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
		want(t, "GET", get(t, "http://"+address+"/"), "served")
	})
}

func copies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	content := strings.Repeat("0123456789abcdef", 1<<16)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", file, "web:/tmp/file")
	must(t, "cp", "web:/tmp/file", file+".back")
	if back, err := os.ReadFile(file + ".back"); err != nil || string(back) != content {
		t.Errorf("the file came back with %d bytes (%v), want %d", len(back), err, len(content))
	}
}

func forwards(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forward := exec.CommandContext(ctx, "kubectl", "port-forward", "pod/web", ":80")
	out, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = forward.Wait() }()
	// Forwarding from 127.0.0.1:41234 -> 80
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) < 3 {
		t.Fatalf("port-forward said %q, %v", line, err)
	}
	for range 3 {
		want(t, "GET", get(t, "http://"+words[2]+"/"), "served")
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

// What kubelet does with a pod's containers.
func TestContainers(t *testing.T) {
	nothingLeft(t)
	t.Run("run, and its exit code", func(t *testing.T) {
		start(t, single("ends", "echo last words; exit 3", "  restartPolicy: Never"))
		eventually(t, "the phase", patience, func() (string, bool) {
			phase := must(t, "get", "pod", "ends", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}")
			return phase, phase == "Failed 3"
		})
		want(t, "logs", must(t, "logs", "ends"), "last words")
	})
	t.Run("one that ends is started again in its pod", func(t *testing.T) {
		start(t, single("again", "[ -e /mark/mark ] && sleep 600; touch /mark/mark; exit 1",
			"      volumeMounts: [{name: mark, mountPath: /mark}]", "  volumes: [{name: mark, emptyDir: {}}]"))
		eventually(t, "restarts", patience, func() (string, bool) {
			status := must(t, "get", "pod", "again", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
			return status, status == "1 true"
		})
	})
	t.Run("probes and hooks", func(t *testing.T) {
		start(t, single("probes", "sleep 600",
			"      readinessProbe: {exec: {command: [test, -e, /ready]}, periodSeconds: 1}",
			"      livenessProbe: {exec: {command: ['true']}, periodSeconds: 1}",
			"      lifecycle: {postStart: {exec: {command: [touch, /ready]}}, preStop: {exec: {command: [sleep, '0']}}}"), "probes")
	})
	t.Run("memory over the limit", func(t *testing.T) {
		start(t, single("greedy", "head -c 200m /dev/zero | tail", "      resources: {limits: {memory: 64Mi}}", "  restartPolicy: Never"))
		eventually(t, "the reason", patience, func() (string, bool) {
			status := must(t, "get", "pod", "greedy", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated}")
			return status, strings.HasPrefix(status, "Failed") && (strings.Contains(status, "OOMKilled") || strings.Contains(status, `"exitCode":137`))
		})
	})
	t.Run("a user namespace", func(t *testing.T) {
		start(t, single("users", "awk '{ print $1, ($2 > 0) }' /proc/self/uid_map; touch /scratch/file; stat -c %u /scratch/file; sleep 600",
			"      volumeMounts: [{name: scratch, mountPath: /scratch}]", "  hostUsers: false", "  volumes: [{name: scratch, emptyDir: {}}]"), "users")
		want(t, "its mapping, and the owner of a file", must(t, "logs", "users"), "0 1\n0\n")
	})
	t.Run("stats", func(t *testing.T) {
		start(t, single("counted", "sleep 600"), "counted")
		eventually(t, "stats", time.Minute, func() (string, bool) {
			summary := must(t, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/stats/summary")
			_, pod, found := strings.Cut(summary, `"name": "counted"`)
			return summary, found && strings.Contains(pod, "workingSetBytes")
		})
	})
}
