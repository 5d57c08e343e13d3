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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
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
		ReadOnly   bool
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

// withShell makes a container in whose guest the operator may run programs.
func withShell(t *testing.T) func(id string, image client.Image) []client.NewContainerOpts {
	t.Helper()
	config, err := os.ReadFile(host.Config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	write(t, file, string(config)+"\n[debug]\nshell = true\n")
	return func(id string, image client.Image) []client.NewContainerOpts {
		return []client.NewContainerOpts{client.WithNewSnapshot(id, image), client.WithRuntime(harness.Runtime, &runtimeoptions.Options{ConfigPath: file})}
	}
}

// checkShell wants programs of the host to run beside the agent of a guest where the configuration
// allows it, and nothing of that to be left.
func checkShell(t *testing.T, state []string, refused, allowed *task) {
	t.Helper()
	tools := filepath.Join(host.Output, "tools")
	shell := func(k *task, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		return msbctl(t, append(append(append([]string{"shell", k.ID()}, state...), "--tools", tools, "--"), args...)...)
	}
	if _, stderr, code := shell(refused, "probe", "stat", "/sbin/msb-agent"); code != 1 || !strings.Contains(stderr, "[debug] shell = true") {
		t.Errorf("shell without the setting: code %d, %q", code, stderr)
	}
	if stdout, stderr, code := shell(allowed, "probe", "stat", "/sbin/msb-agent"); code != 0 || stdout == "" {
		t.Errorf("shell: code %d, %q, %q", code, stdout, stderr)
	}
	if stdout, stderr, code := shell(allowed, "probe", "stat", "/no/such/file"); code != 1 || stdout != "ENOENT\n" || stderr != "" {
		t.Errorf("shell of a program that fails: code %d, %q, %q", code, stdout, stderr)
	}
	if _, stderr, code := shell(allowed, "no-program"); code != 1 || !strings.Contains(stderr, "no such file") {
		t.Errorf("shell of no program: code %d, %q", code, stderr)
	}
	checkTerminal(t, append([]string{"shell", allowed.ID()}, state...))
	allowed.mustFail("stat /sbin/msb-agent", "")
	stdout, _, _ := msbctl(t, append([]string{"log", allowed.ID()}, state...)...)
	if strings.Count(stdout, "runs a program in the guest") != 4 || !strings.Contains(stdout, "has ended with status 1") {
		t.Errorf("the log tells of it: %s", stdout)
	}
	var s listed
	if msbctlJSON(t, &s, append([]string{"inspect", allowed.ID()}, state...)...); len(s.Shares) != 1 {
		t.Errorf("shares are left: %+v", s.Shares)
	}
}

// checkTerminal wants a shell in the guest to have a terminal, before which msbctl sits in one of the
// host's.
func checkTerminal(t *testing.T, args []string) {
	t.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	resize := func(rows, columns uint16) {
		if err := master.Resize(console.WinSize{Height: rows, Width: columns}); err != nil {
			t.Fatal(err)
		}
	}
	resize(30, 100)
	var mu sync.Mutex
	var shown strings.Builder
	text := func() string {
		mu.Lock()
		defer mu.Unlock()
		return shown.String()
	}
	go func() {
		part := make([]byte, 4096)
		for {
			n, err := master.Read(part)
			if err != nil {
				return
			}
			mu.Lock()
			shown.Write(part[:n])
			mu.Unlock()
		}
	}()
	tools := t.TempDir()
	path, err = exec.LookPath("busybox") // the one that the image has
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(tools, "busybox"), busybox, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(host.Output, "bin", "msbctl"), append(args, "--tools", tools, "--", "busybox", "sh", "-i")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(harness.Patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	// What is typed is also shown, but not as the shell makes it.
	await := func(keys, want string) {
		t.Helper()
		before := len(text())
		if _, err := io.WriteString(master, keys); err != nil {
			t.Fatal(err)
		}
		waitFor(t, fmt.Sprintf("the terminal to show %q", want), func() bool { return strings.Contains(text()[before:], want) })
	}
	await("a=one; echo $a-$((1+1)) $TERM\r", "one-2 xterm")
	await("$TOOLS/busybox tty; $TOOLS/busybox stty size\r", "/dev/pts/")
	waitFor(t, "the terminal's size", func() bool { return strings.Contains(text(), "30 100\r\n") })
	resize(31, 101)
	await("until $TOOLS/busybox stty size | $TOOLS/busybox grep '31 101'; do $TOOLS/busybox sleep 0.1; done\r", "31 101\r\n")
	await("echo sleeps$((1+1)); $TOOLS/busybox sleep 100000\r", "sleeps2")
	await("\x03echo ended-$?\r", "ended-130")
	await("$TOOLS/busybox printf '\\033]0;title\\007t%sext' h\r", "thext")
	if strings.Contains(text(), "\x1b]") {
		t.Errorf("the terminal is shown a title: %q", text())
	}
	if _, err := io.WriteString(master, "exit 5\r"); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("exit code %d: %q", cmd.ProcessState.ExitCode(), text())
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

// Containers are started beside runc's, use files, are told of and drawn, and are gone; also if the
// image is not there, or its program.
func TestMsbctlBench(t *testing.T) {
	nothingLeft(t)
	nothingOfBench(t)
	t.Setenv("TMPDIR", t.TempDir())
	options := []string{"bench", "--address", host.Address(), "--namespace", harness.Namespace, "--config", host.Config, "--rounds", "1", "--file-rounds", "1", "--files", "20"}
	type times struct {
		Runtime string
		Seconds []float64
		Ratio   float64 `json:"ratio_p50"`
	}
	var told struct {
		Runtimes []struct {
			Runtime    string
			Start, End times
		}
		Files []struct {
			Job, Place string
			Runtimes   []times
		}
		LeftOut []string `json:"left_out"`
	}
	svg := filepath.Join(t.TempDir(), "bench.svg")
	stdout, stderr, code := msbctl(t, append(options, "--json", "--svg", svg, harness.Image, "sleep", "1000")...)
	if err := json.Unmarshal([]byte(stdout), &told); err != nil || code != 0 || len(told.Runtimes) != 2 {
		t.Fatalf("code %d, %v, %q, %q", code, err, stdout, stderr)
	}
	runtimes := []string{harness.Runtime, "io.containerd.runc.v2"}
	for i, runtime := range runtimes {
		r := told.Runtimes[i]
		if r.Runtime != runtime || len(r.Start.Seconds) != 1 || len(r.End.Seconds) != 1 || r.Start.Seconds[0] <= 0 || r.Start.Ratio <= 0 {
			t.Errorf("%s: %+v", runtime, r)
		}
	}
	for _, job := range told.Files {
		for i, runtime := range runtimes {
			if r := job.Runtimes[i]; r.Runtime != runtime || len(r.Seconds) != 1 || r.Seconds[0] <= 0 || r.Ratio <= 0 {
				t.Errorf("%s in the %s: %+v", job.Job, job.Place, r)
			}
		}
	}
	if len(told.Files) != 2*7 || len(told.LeftOut) > 0 {
		t.Errorf("%d jobs on files, left out %q", len(told.Files), told.LeftOut)
	}
	if drawn := content(t, svg); !strings.HasPrefix(drawn, "<svg") || !strings.HasSuffix(drawn, "</svg>\n") || !strings.Contains(drawn, "deleting them") {
		t.Errorf("drawn: %q", drawn)
	}
	for words, what := range map[string][]string{
		"pull it": {"not.there/image:latest"}, "no-such-program": {"--against", "", harness.Image, "no-such-program"},
		"none/bench.svg": {"--svg", filepath.Join(t.TempDir(), "none", "bench.svg"), harness.Image, "no-such-program"},
	} {
		if _, stderr, code := msbctl(t, append(options, what...)...); code != 1 || !strings.Contains(stderr, words) {
			t.Errorf("%q: code %d, %q", what, code, stderr)
		}
	}
}

// A signal ends a measurement while a container starts, and while files are worked on, and nothing
// of it is left.
func TestMsbctlBenchInterrupted(t *testing.T) {
	nothingLeft(t)
	nothingOfBench(t)
	ctx, cancel := host.Context()
	defer cancel()
	tmp := t.TempDir()
	for when, begun := range map[string]func() bool{
		"a start": func() bool {
			containers, err := host.Client.Containers(ctx, `id~="^msbctl-bench-"`)
			return err != nil || len(containers) > 0
		},
		// The last shell has started, and the first has 100,000 files to make.
		"files": func() bool {
			containers, err := host.Client.Containers(ctx, `id~="^msbctl-bench-.*-files-1$"`)
			if err != nil || len(containers) == 0 {
				return err != nil
			}
			task, err := containers[0].Task(ctx, nil)
			if err != nil {
				return false
			}
			status, err := task.Status(ctx)
			return err == nil && status.Status == client.Running
		},
	} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), filepath.Join(host.Output, "bin", "msbctl"), "bench", "--address", host.Address(), "--namespace", harness.Namespace, "--config", host.Config,
			"--rounds", "1", "--files", "100000", "--svg", filepath.Join(dir, "bench.svg"), harness.Image, "sleep", "1000")
		var stderr bytes.Buffer
		cmd.Env, cmd.Stderr = append(os.Environ(), "TMPDIR="+tmp), &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, when, begun)
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("in %s: %v, %q", when, err, stderr.String())
		}
		for _, empty := range []string{tmp, dir} {
			if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
				t.Errorf("in %s: %v is left, %v", when, left, err)
			}
		}
	}
}

// nothingOfBench fails if a test leaves containers, snapshots, leases or streams of msbctl bench.
func nothingOfBench(t *testing.T) {
	ctx, cancel := host.Context()
	defer cancel()
	const fifos = "/run/containerd/fifo/*"
	manager := host.Client.LeasesService()
	leases, leasesErr := manager.List(ctx)
	streams, streamsErr := filepath.Glob(fifos)
	if err := errors.Join(leasesErr, streamsErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		containers, err := host.Client.Containers(ctx, `id~="^msbctl-bench-"`)
		if err != nil || len(containers) > 0 {
			t.Errorf("%d containers are left, %v", len(containers), err)
		}
		err = host.Client.SnapshotService("").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			if strings.HasPrefix(info.Name, "msbctl-bench-") {
				t.Errorf("the snapshot %s is left", info.Name)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if now, err := manager.List(ctx); err != nil || len(now) != len(leases) {
			t.Errorf("leases: %v, before %v, %v", now, leases, err)
		}
		if now, err := filepath.Glob(fifos); err != nil || !slices.Equal(now, streams) {
			t.Errorf("streams: %q, before %q, %v", now, streams, err)
		}
	})
}
