package docker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// must runs a script that has to succeed, and returns what it printed.
func must(t *testing.T, script string, arguments ...any) string {
	t.Helper()
	script = fmt.Sprintf(script, arguments...)
	output, code := shell(context.Background(), script) // also when the test has ended
	if code != 0 {
		t.Errorf("%s: exit status %d\n%s", script, code, output)
	}
	return strings.TrimSpace(output)
}

// eventually waits until a script succeeds.
func eventually(t *testing.T, script string, arguments ...any) {
	t.Helper()
	script = fmt.Sprintf(script, arguments...)
	var output string
	if !harness.Eventually(func() bool {
		var code int
		output, code = shell(t.Context(), script)
		return code == 0
	}) {
		t.Fatalf("never: %s\n%s", script, output)
	}
}

func want(t *testing.T, text string, output string) {
	t.Helper()
	if !strings.Contains(output, text) {
		t.Errorf("no %q in\n%s", text, output)
	}
}

// nothingLeft is the harness's, and removes what a test makes with docker. It leaves out what
// Engine 26 keeps until it ends itself, whatever the runtime: the mounted layer of a container
// that was exported, and its builder's control group.
func nothingLeft(t *testing.T) {
	t.Helper()
	before := host.Leftovers()
	t.Cleanup(func() {
		if output, code := shell(context.Background(), prelude+clean); code != 0 {
			t.Errorf("removing what is there: %s", output)
		}
		if left := host.New(before, daemon.data("overlay2"), harness.Namespace+builder+"/"); len(left) > 0 {
			t.Error("left behind:\n" + strings.Join(left, "\n"))
		}
	})
}

// services is how many a project starts at once.
const services = 10

// A project of ten services starts at once, each with a limit of memory. Each finds the
// others by name: Docker's resolver listens on a loopback address of the namespace on the host.
func TestProject(t *testing.T) {
	nothingLeft(t)
	var file strings.Builder
	file.WriteString("services:\n")
	for i := range services {
		fmt.Fprintf(&file, "  s%d:\n    image: %s\n    runtime: %s\n    mem_limit: 64m\n    stop_signal: KILL\n    command: [sleep, '86400']\n", i, harness.Image, msb)
	}
	name := filepath.Join(daemon.dir, "compose.yaml")
	if err := os.WriteFile(name, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := "docker compose -p project -f " + name + " "
	t.Cleanup(func() { must(t, "%s", compose+"down 2>&1") })
	must(t, "%s", compose+"up -d 2>&1")
	if running := strings.Fields(must(t, "%s", compose+"ps --services --status running")); len(running) != services {
		t.Fatalf("of %d services these run: %q", services, running)
	}
	t.Run("each service has an address by its name", func(t *testing.T) {
		for i := range services {
			address := must(t, "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' project-s%d-1", i)
			want(t, address, must(t, "%sexec -T s0 nslookup s%d 2>&1", compose, i))
		}
	})
	t.Run("a name that nobody has", func(t *testing.T) {
		if output, code := shell(t.Context(), compose+"exec -T s0 nslookup s99.invalid 2>&1"); code == 0 {
			t.Errorf("resolved: %s", output)
		}
	})
	t.Run("the limit of memory holds", func(t *testing.T) {
		if output, code := shell(t.Context(), compose+"exec -T s1 dd if=/dev/zero of=/dev/null bs=100M count=1 2>&1"); code != 137 {
			t.Errorf("100 MB in 64 MB: %s, exit status %d, want 137", output, code)
		}
		must(t, "%s", compose+"exec -T s1 true")
	})
}

// links are the network interfaces in a container.
func links(t *testing.T) string {
	t.Helper()
	return strings.Join(strings.Fields(must(t, "docker exec box ls /sys/class/net")), " ")
}

// One container is on two networks before it starts. A network comes, another one goes, and
// the engine is killed and comes back: it runs on.
func TestNetworksAndTheEngineKilled(t *testing.T) {
	nothingLeft(t)
	must(t, "for n in one two three; do docker network create $n; done")
	must(t, "docker create --name box --runtime %s --network one %s sh -c 'trap \"exit 5\" TERM; echo started; while :; do sleep 86400 & wait; done'", msb, harness.Image)
	must(t, "docker network connect two box && docker start box")
	t.Run("both networks are there from the start", func(t *testing.T) {
		if got := links(t); got != "eth0 eth1 lo" {
			t.Errorf("the interfaces are %s", got)
		}
	})
	t.Run("a network comes while it runs", func(t *testing.T) {
		must(t, "docker network connect three box")
		eventually(t, "docker exec box ip -4 addr show eth2 | grep -F $(docker inspect -f '{{.NetworkSettings.Networks.three.IPAddress}}' box)")
	})
	t.Run("the first one goes", func(t *testing.T) {
		address := must(t, "docker inspect -f '{{.NetworkSettings.Networks.one.IPAddress}}' box")
		must(t, "docker network disconnect one box")
		eventually(t, "! docker exec box ip -4 addr | grep -F %s/", address)
	})
	t.Run("a network that has gone by force", func(t *testing.T) {
		must(t, "docker network disconnect -f two box && docker network rm two && docker exec box true")
	})
	t.Run("the engine is killed", func(t *testing.T) {
		pid := must(t, "docker inspect -f '{{.State.Pid}}' box")
		daemon.stop(syscall.SIGKILL)
		if err := daemon.start(); err != nil {
			t.Fatalf("starting it again: %v\n%s", err, tail(daemon.log(), 20))
		}
		if state := must(t, "docker inspect -f '{{.State.Status}} {{.State.Pid}}' box"); state != "running "+pid {
			t.Errorf("the container is %s, and was running %s", state, pid)
		}
		want(t, "again", must(t, "docker exec box echo again"))
		want(t, "started", must(t, "docker logs box"))
		if code := must(t, "docker stop -t 60 box >/dev/null; docker wait box"); code != "5" {
			t.Errorf("it ended with %s", code)
		}
	})
}

// joined finds in the log what a privileged container does not have.
var joined = regexp.MustCompile(`level=warning.*devices of the host, which a privileged container is given`)

// Options that name no file are refused; a privileged container runs, and the log says what
// it has not.
func TestPrivilegedAndMisconfigured(t *testing.T) {
	nothingLeft(t)
	if output, code := shell(t.Context(), "docker run --rm --runtime "+misconfigured+" "+harness.Image+" true"); code == 0 || !strings.Contains(output, nowhere) {
		t.Errorf("exit status %d: %s", code, output)
	}
	want(t, "ffffff", must(t, "docker run --rm --privileged --runtime %s %s grep CapEff /proc/self/status", msb, harness.Image))
	if !joined.MatchString(host.Log()) {
		t.Error("the log does not say that the devices of the host are not there")
	}
}
