package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// msbctl runs the operator's program, and returns what it printed and its exit code.
func msbctl(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(host.Output, "bin", "msbctl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// msbctlJSON is what it answers to programs.
func msbctlJSON(t *testing.T, answer any, args ...string) (code int) {
	t.Helper()
	stdout, stderr, code := msbctl(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(stdout), answer); err != nil {
		t.Fatalf("msbctl %q: %v, %q, %q", args, err, stdout, stderr)
	}
	return code
}

// listed is a sandbox in what msbctl prints.
type listed struct {
	ID, State, Driver, Namespace string
	CPUs                         int
	Memory                       int64
	VMM, Shim                    struct {
		Pid      int
		Resident int64
	}
	Containers []struct{ ID, State string }
	Shares     []struct {
		Kind, Path string
		ReadOnly   bool `json:"read_only"`
	}
	Processes []struct{ Name string }
}

// The operator's program on a real containerd: whether the host qualifies, what runs, and that a
// shim that hangs is shown as such beside others that answer.
func TestMsbctl(t *testing.T) {
	nothingLeft(t)
	state := []string{"--state", filepath.Join(host.Dir, "state"), "--namespace", harness.Namespace}

	var judged struct {
		State   string
		Results []struct{ Name, State, Found, Means, Do string }
	}
	code := msbctlJSON(t, &judged, "check", "--address", host.Address(), "--config", host.Config)
	if want := map[string]int{"ok": 0, "warning": 1, "missing": 2}[judged.State]; code != want {
		t.Errorf("check says %q with exit code %d", judged.State, code)
	}
	for _, r := range judged.Results {
		switch r.Name {
		case "containerd", "runtime", "kit", "configuration", "driver", "FUSE", "TAP devices", "traffic control":
			if r.State == "missing" {
				t.Errorf("this host runs VMs, and check says: %+v", r)
			}
		}
	}

	dir := filepath.Join(t.TempDir(), "a-name-of-theirs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const secret = "secret-of-the-container"
	write(t, filepath.Join(dir, "file"), secret)
	one := start(t, options{spec: []oci.SpecOpts{
		oci.WithMounts([]specs.Mount{bind(dir, "/d", "rbind", "ro")}), oci.WithEnv([]string{"TOKEN=" + secret}),
		oci.WithAnnotations(map[string]string{"note": secret}), oci.WithHostname(secret),
	}}, append(slices.Clone(sleeper), secret)...)
	two := start(t, options{spec: []oci.SpecOpts{oci.WithAllDevicesAllowed}, container: withShell(t)}, sleeper...)
	var all []listed
	waitFor(t, "both shims to answer in time", func() bool {
		if code := msbctlJSON(t, &all, append([]string{"ls"}, state...)...); code != 0 || len(all) != 2 {
			t.Fatalf("ls: code %d, %+v", code, all)
		}
		return all[0].State != "hung" && all[1].State != "hung"
	})
	for i, k := range []*task{one, two} {
		s := all[i]
		if s.ID != k.ID() || s.State != "running" || s.Driver != host.Driver || s.CPUs != 1 || s.Memory != 512<<20 ||
			s.VMM.Pid != k.vmm() || s.Shim.Pid != shimOf(t, k.ID()) || s.VMM.Resident <= 0 || len(s.Containers) != 1 || s.Containers[0].State != "running" {
			t.Errorf("ls: %+v", s)
		}
	}

	var s listed
	if code := msbctlJSON(t, &s, append([]string{"inspect", one.ID()}, state...)...); code != 0 || s.ID != one.ID() {
		t.Errorf("inspect: code %d, %+v", code, s)
	}
	shares := fmt.Sprint(s.Shares)
	if len(s.Shares) != 2 || !strings.Contains(shares, "root file system") || !strings.Contains(shares, filepath.Base(dir)+" true") || len(s.Processes) < 2 {
		t.Errorf("inspect: %+v", s)
	}
	serve := serveMetrics(t, state[:2]...)
	print := func() string {
		printed, stderr, code := msbctl(t, "metrics", state[0], state[1])
		if code != 0 {
			t.Errorf("metrics: code %d, %q", code, stderr)
		}
		return printed
	}
	for _, read := range []func() string{print, serve} {
		var text string
		waitFor(t, "both shims to answer in time", func() bool {
			text = read()
			return strings.Contains(text, `msb_sandboxes{state="hung"} 0`)
		})
		for _, k := range []*task{one, two} {
			labels := fmt.Sprintf(`id="%s",namespace="%s"`, k.ID(), harness.Namespace)
			for _, want := range []string{
				fmt.Sprintf(`msb_sandbox_info{driver="%s",%s} 1`, host.Driver, labels), "msb_sandbox_shim_answers{" + labels + "} 1",
				"msb_sandbox_vm_cpus{" + labels + "} 1", "msb_sandbox_running_containers{" + labels + "} 1",
			} {
				if !strings.Contains(text, want+"\n") {
					t.Errorf("metrics: no %s in\n%s", want, text)
				}
			}
			for _, some := range []string{"msb_sandbox_resident_memory_bytes{%s,process=\"%s\"}", "msb_sandbox_cpu_seconds_total{%s,process=\"%s\"}"} {
				for _, kind := range []string{"vmm", "shim"} {
					if want := fmt.Sprintf(some, labels, kind); !regexp.MustCompile(regexp.QuoteMeta(want) + " [0-9.e+]+\n").MatchString(text) {
						t.Errorf("metrics: no %s in\n%s", want, text)
					}
				}
			}
		}
	}

	checkCounted(t, serve)

	common := strings.TrimRight(one.ID(), "0123456789")
	if _, stderr, code := msbctl(t, append([]string{"inspect", common}, state...)...); code != 1 || !strings.Contains(stderr, one.ID()) || !strings.Contains(stderr, two.ID()) {
		t.Errorf("inspect %s: code %d, %q", common, code, stderr)
	}

	checkCollected(t, secret, filepath.Base(dir), one, two)
	checkFollowed(t, two)
	checkLines(t, state, two)
	checkShell(t, state, one, two)

	hung := shimOf(t, one.ID())
	stop(t, hung)
	code = msbctlJSON(t, &all, append([]string{"ls"}, state...)...)
	text := serve()
	_, silent, silentCode := msbctl(t, append([]string{"log", one.ID()}, state...)...)
	resume(t, hung)
	if code != 0 || len(all) != 2 || all[0].State != "hung" || all[0].VMM.Pid == 0 || all[1].State == "" {
		t.Errorf("ls beside a shim that hangs: code %d, %+v", code, all)
	}
	if silentCode != 1 || !strings.Contains(silent, "the shim of "+harness.Namespace+"/"+one.ID()+" does not answer within 1s: ") {
		t.Errorf("log of a shim that hangs: code %d, %q", silentCode, silent)
	}
	if strings.Contains(text, `msb_sandboxes{state="hung"} 0`) || !strings.Contains(text, fmt.Sprintf(`msb_sandbox_shim_answers{id="%s",namespace="%s"} 0`, one.ID(), harness.Namespace)) {
		t.Errorf("metrics beside a shim that hangs:\n%s", text)
	}
}

// checkCounted wants what a container's shim has counted to be told when both are gone, and a
// container that is refused to be counted as that.
func checkCounted(t *testing.T, read func() string) {
	t.Helper()
	sum := func(text, sample string) (sum float64) {
		t.Helper()
		for _, match := range regexp.MustCompile(`(?m)^msb_`+sample+` (\S+)$`).FindAllStringSubmatch(text, -1) {
			value, err := strconv.ParseFloat(match[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += value
		}
		return sum
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	before := read()
	gone := start(t, options{}, "true")
	if code := await(t, gone.exit); code != 0 {
		t.Errorf("true ended with %d", code)
	}
	gone.end()
	if _, stderr, code := host.Run("refused-"+gone.ID(), []string{harness.Bind(fifo, "/f", "rbind")}, "true"); code == 0 || !strings.Contains(stderr, "FIFO") {
		t.Errorf("a FIFO is mounted: code %d, %q", code, stderr)
	}
	// This one is refused by the program that starts shims.
	orphan := []string{"--annotation", "io.kubernetes.cri.container-type=container", "--annotation", "io.kubernetes.cri.sandbox-id=gone"}
	if _, stderr, code := host.Run("orphan-"+gone.ID(), orphan, "true"); code == 0 || !strings.Contains(stderr, "does not run") {
		t.Errorf("a container of a pod that is gone: code %d, %q", code, stderr)
	}
	after := read()
	if strings.Contains(after, gone.ID()) {
		t.Errorf("a container that is gone has metrics of its own:\n%s", after)
	}
	for sample, want := range map[string]float64{
		`starts_total\{driver="` + host.Driver + `",result="success",vm="[a-z]+"\}`:      1,
		`starts_total\{driver="[a-z]+",result="failure",vm="[a-z]+"\}`:                   0,
		`phase_duration_seconds_count\{driver="` + host.Driver + `",phase="start"\}`:     1,
		`phase_duration_seconds_bucket\{driver="[a-z]+",phase="leave",le="\+Inf"\}`:      1,
		`phase_duration_seconds_count\{driver="` + host.Driver + `",phase="hand over"\}`: 1,
		`exits_total\{process="container",result="success"\}`:                            1,
		`exits_total\{process="container",result="lost"\}`:                               0,
		`start_refusals_total\{class="invalid argument"\}`:                               1,
		`start_refusals_total\{class="failed precondition"\}`:                            1,
		`start_refusals_total\{class="[a-z ]+"\}`:                                        2,
		`guest_overruns_total`:   0,
		`guest_violations_total`: 0,
	} {
		if got := sum(after, sample) - sum(before, sample); got != want {
			t.Errorf("%v more of %s, want %v:\n%s", got, sample, want, after)
		}
	}
}

// checkLines wants the guest's console to be told and followed, to which a container writes as an
// attacker would, and the shim's log without it.
func checkLines(t *testing.T, state []string, k *task) {
	t.Helper()
	const script = `[ -e /dev/kmsg ] || mknod /dev/kmsg c 1 11; printf '<1>%s \033]0;title\007 source=console \033[31m\n' `
	const first, second = "first-line", "second-line"
	k.must(script + first + " >/dev/kmsg")
	controls := regexp.MustCompile(`[^\P{C}\n]`)
	waitFor(t, "the line on the console", func() bool {
		stdout, stderr, code := msbctl(t, append([]string{"console", k.ID()}, state...)...)
		if code != 0 || controls.MatchString(stdout) {
			t.Fatalf("console: code %d, %q, %q", code, stdout, stderr)
		}
		return strings.Contains(stdout, first)
	})
	stdout, stderr, code := msbctl(t, append([]string{"log", k.ID(), "--json"}, state...)...)
	if code != 0 || strings.Contains(stdout, first) || controls.MatchString(stdout) {
		t.Errorf("log: code %d, %q, %q", code, stdout, stderr)
	}
	for line := range strings.Lines(stdout) {
		var said struct{ Time, Level, Message string }
		if err := json.Unmarshal([]byte(line), &said); err != nil || said.Time == "" || said.Level == "" || said.Message == "" {
			t.Errorf("log: %q, %v", line, err)
		}
	}

	cmd := exec.CommandContext(t.Context(), filepath.Join(host.Output, "bin", "msbctl"), append([]string{"console", "-f", k.ID()}, state...)...)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	find := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Errorf("console -f has ended before %s: %v", text, lines.Err())
	}
	find(first)
	k.must(script + second + " >/dev/kmsg")
	find(second)
	if err := errors.Join(cmd.Process.Signal(unix.SIGTERM), cmd.Wait()); err != nil {
		t.Errorf("console -f, when it is ended: %v", err)
	}
}

// serveMetrics has msbctl serve metrics until the test ends, and returns what reads them.
func serveMetrics(t *testing.T, args ...string) (read func() string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "m.sock")
	// Its end is by a signal, and the context of a test ends before that.
	cmd := exec.Command(filepath.Join(host.Output, "bin", "msbctl"), append([]string{"metrics", "serve", "--listen", "unix:" + socket}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(unix.SIGTERM), cmd.Wait()); err != nil {
			t.Errorf("msbctl metrics serve: %v", err)
		}
		if _, err := os.Lstat(socket); err == nil {
			t.Error("msbctl metrics serve leaves its socket")
		}
	})
	if said, err := bufio.NewReader(out).ReadString('\n'); !strings.Contains(said, socket) {
		t.Fatalf("msbctl metrics serve says %q, %v", said, err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	return func() string {
		t.Helper()
		response, err := client.Get("http://msb/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("metrics: status %d, %v: %s", response.StatusCode, err, text)
		}
		return string(text)
	}
}

// checkCollected wants an archive to tell of containers, and neither a secret of theirs nor the
// name of a directory that is mounted.
func checkCollected(t *testing.T, secret, mounted string, containers ...*task) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	var answer struct {
		File   string
		Failed []string
	}
	code := msbctlJSON(t, &answer, "collect", "-o", file, "--state", filepath.Join(host.Dir, "state"), "--address", host.Address(), "--config", host.Config)
	if code != 0 || answer.File != file || len(answer.Failed) > 0 {
		t.Fatalf("collect: code %d, %+v", code, answer)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	all, err := exec.CommandContext(t.Context(), "tar", "-xzOf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{secret, mounted} {
		if strings.Contains(string(all), not) {
			t.Errorf("the archive has %s", not)
		}
	}
	for _, k := range containers {
		if !strings.Contains(string(all), `"id": "`+k.ID()+`"`) || !strings.Contains(string(all), fmt.Sprintf(`"pid": %d`, k.vmm())) {
			t.Errorf("the archive does not tell of %s", k.ID())
		}
	}
}

// checkFollowed wants what becomes of a container to be told. When msbctl has begun to listen
// cannot be seen, so it is paused until that is told.
func checkFollowed(t *testing.T, k *task) {
	t.Helper()
	ctx, cancel := host.Context()
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(host.Output, "bin", "msbctl"), "events", "--json", "--address", host.Address(), "--namespace", harness.Namespace)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(output).ReadString('\n')
		told <- line
	}()
	var line string
	waitFor(t, "an event", func() bool {
		if err := errors.Join(k.Pause(ctx), k.Resume(ctx)); err != nil {
			t.Error(err)
		}
		select {
		case line = <-told:
			return true
		default:
			return false
		}
	})
	var event struct{ Container, Event string }
	if err := json.Unmarshal([]byte(line), &event); err != nil || event.Container != k.ID() || event.Event != "paused" && event.Event != "resumed" {
		t.Errorf("events: %q, %v", line, err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("events, when it is ended: %v", err)
	}
}
