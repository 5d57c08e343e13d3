package conformance

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/conformance/expect"
	"github.com/msb-runtime/containerd-shim-msb/test/conformance/registry"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var (
	handler   = flag.String("handler", "msb", "the runtime handler under test: msb or runc")
	sandboxer = flag.String("sandboxer", "podsandbox", "how containerd runs sandboxes: podsandbox or shim")
	focus     = flag.String("focus", "", "run only specs whose names match this regular expression")
	update    = flag.Bool("update", false, "write the results into the file of expectations")
)

// files have the expectations. Those of runc show what a machine itself does not allow.
var files = map[string]string{"msb": "critest.txt", "runc": "critest-runc.txt"}

func TestCritest(t *testing.T) {
	path, ok := files[*handler]
	if !ok {
		t.Fatalf("no runtime handler %q", *handler)
	}
	if *handler == "runc" && *sandboxer == "shim" {
		t.Fatal("runc's shim cannot start a sandbox: it looks for the config.json of a container")
	}
	selected := regexp.MustCompile(*focus).MatchString
	expected, err := expect.Read(path, expect.Sandboxers)
	if err != nil {
		t.Fatal(err)
	}
	host := start(t)
	begin := time.Now()
	specs := critest(t, host)
	complete := !t.Failed()
	results := make(map[string]expect.Result)
	count := make(map[expect.Result]int)
	for _, s := range specs {
		results[s.name] = s.result
		count[s.result]++
	}
	t.Logf("%s, sandboxer %s: %d passed, %d failed, %d skipped, in %v", *handler, *sandboxer,
		count[expect.Passed], count[expect.Failed], count[expect.Skipped], time.Since(begin).Round(time.Second))
	for _, s := range specs {
		t.Run(s.name, func(t *testing.T) {
			t.Logf("%s in %v\n%s", s.result, s.took, s.message)
			if err := expected.Compare(*sandboxer, s.name, s.result); err != nil && !*update {
				t.Error(err)
			}
		})
	}
	var missing []string
	if complete {
		missing = expected.Missing(*sandboxer, results, selected)
	}
	if *update && complete {
		expected.Update(*sandboxer, results, missing)
		if err := expected.Write(path); err != nil {
			t.Error(err)
		}
		return
	}
	for _, name := range missing {
		t.Errorf("%s is expected and was not run", name)
	}
}

// start starts containerd and the registry that it gets all images from.
func start(t *testing.T) *harness.Host {
	t.Helper()
	host, err := harness.Start(harness.CRI)
	if err != nil {
		t.Fatal(err)
	}
	before := host.Leftovers()
	t.Cleanup(func() {
		if err := host.StopPods(); err != nil {
			t.Error(err)
		}
		left := host.New(before, temporary(host)+"/") // critest's own: a spec that fails unmounts nothing
		if *handler == "msb" && len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		keep(t, "containerd.log", host.Log())
		if err := host.Stop(); err != nil {
			t.Error(err)
		}
	})
	images, err := registry.Open(filepath.Join(host.Output, "images", "critest"))
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	err = host.InNetwork(func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: images, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	if err := host.UseRegistry(listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	return host
}

// runtimeHandler is containerd's name of what is under test.
func runtimeHandler() string {
	if *sandboxer == "shim" {
		return harness.SandboxHandler
	}
	return *handler
}

// temporary is where critest makes what it mounts into containers.
func temporary(host *harness.Host) string { return filepath.Join(host.Dir, "critest") }

// keep keeps a log with the results of tests, if those are kept.
func keep(t *testing.T, name, content string) {
	t.Helper()
	dir := os.Getenv("MSB_RESULTS")
	if dir == "" {
		return
	}
	path := filepath.Join(dir, fmt.Sprintf("critest-%s-%s-%s", *handler, *sandboxer, name))
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Error(err)
	}
}

// critest runs it, always in the same order, and ends it in time to clean up.
func critest(t *testing.T, host *harness.Host) []spec {
	t.Helper()
	// An interrupt ends critest, not this process: it has pods to remove.
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, unix.SIGTERM)
	defer stop()
	limit := 3 * time.Hour
	if deadline, ok := t.Deadline(); ok {
		limit = time.Until(deadline) - 2*time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	report, logPath, dir := filepath.Join(host.Dir, "report.json"), filepath.Join(host.Dir, "critest.log"), temporary(host)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, filepath.Join(host.Output, "tools", "critest"),
		"-config", os.DevNull, "-runtime-endpoint", "unix://"+host.Address(), "-runtime-handler", runtimeHandler(),
		"-ginkgo.json-report", report, "-ginkgo.randomize-all=false", "-ginkgo.seed=1", "-ginkgo.no-color",
		"-ginkgo.timeout", (limit - time.Minute).String(), "-ginkgo.focus", *focus, "-test.timeout=0")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err = host.StartCommand(cmd); err == nil {
		err = cmd.Wait() // specs that fail are an error, too: the report tells
	}
	output, _ := os.ReadFile(logPath)
	keep(t, "specs.log", string(output))
	specs, reportErr := readReport(report)
	if reportErr != nil {
		t.Errorf("critest: %v, %v\n%s", err, reportErr, output[max(0, len(output)-2000):])
	}
	return specs
}
