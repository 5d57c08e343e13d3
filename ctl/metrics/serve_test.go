package metrics

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
)

// socket is a path that is short enough for one.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "metrics.sock")
}

func TestListenRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	path := socket(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"0.0.0.0:9100":          "not a loopback address",
		"[::]:9100":             "not a loopback address",
		":9100":                 "not a loopback address",
		"10.0.0.1:9100":         "not a loopback address",
		"localhost:9100":        "not a loopback address",
		"127.0.0.1":             "no address to listen on",
		"":                      "no address to listen on",
		"9100":                  "no address to listen on",
		"127.0.0.1:http":        "not the number of a port",
		"127.0.0.1:65536":       "not the number of a port",
		taken.Addr().String():   "address already in use",
		"unix:relative":         "must be absolute",
		"unix:":                 "must be absolute",
		"unix:/no/such/dir/m":   "no such file or directory",
		"unix:" + path:          "is no socket",
		"unix:/tmp/" + longName: "invalid argument",
	} {
		l, err := Listen(address)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the file in the socket's place: %v", err)
	}
}

var longName = strings.Repeat("x", 200)

// The socket of one that was killed is replaced, that of one that lives is not.
func TestStaleSocket(t *testing.T) {
	path := socket(t)
	first, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.Lstat(path)
	if err != nil || stat.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", stat.Mode(), err)
	}
	if _, err := Listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "another program listens") {
		t.Errorf("a second one: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	second, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// Two that come at once do not take each other's socket away.
func TestSocketOfTwo(t *testing.T) {
	path := socket(t)
	for range 50 {
		stale, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		stale.(*net.UnixListener).SetUnlinkOnClose(false)
		stale.Close()
		got := make(chan net.Listener, 2)
		for range cap(got) {
			go func() { l, _ := Listen("unix:" + path); got <- l }()
		}
		var alive []net.Listener
		for range cap(got) {
			if l := <-got; l != nil {
				alive = append(alive, l)
			}
		}
		if len(alive) != 1 {
			t.Fatalf("%d listen", len(alive))
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		alive[0].Close()
	}
}

// A server is one that serves a world.
type server struct {
	t      *testing.T
	path   string
	client *http.Client
	end    func() error
}

func (w world) serve(t *testing.T) server {
	t.Helper()
	path := socket(t)
	listener, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, New(w.source)) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return server{t, path, &http.Client{Transport: transport}, func() error { cancel(); return <-ended }}
}

func (s server) get(path string) (status int, body string) {
	s.t.Helper()
	response, err := s.client.Get("http://host" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func TestServe(t *testing.T) {
	w := newWorld(t)
	w.many(1)
	s := w.serve(t)
	if status, body := s.get("/metrics"); status != http.StatusOK || !strings.Contains(body, `msb_sandbox_vm_cpus{id="vm-00",namespace="default"} 2`) {
		t.Errorf("status %d: %s", status, body)
	}
	if status, _ := s.get("/"); status != http.StatusNotFound {
		t.Errorf("another path: status %d", status)
	}
	if err := os.RemoveAll(w.source.State); err != nil {
		t.Fatal(err)
	}
	if status, body := s.get("/metrics"); status != http.StatusInternalServerError || !strings.Contains(body, "state directory") {
		t.Errorf("without containerd's directory: status %d: %s", status, body)
	}
	if err := s.end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.path); err == nil {
		t.Error("the socket is left behind")
	}
}

// Many scrapes leave nothing in the process: no goroutine, no descriptor, no memory.
func TestScrapesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	w.many(1)
	w.source.Patience = 100 * time.Millisecond
	w.must(count.Open(w.source.Counts))
	address, _ := w.hung()
	w.bundle(taskDir, "default", "hung", address, nil)
	s := w.serve(t)
	mappings := func() int {
		maps, err := os.ReadFile("/proc/self/maps")
		w.must(err)
		return bytes.Count(maps, []byte(w.source.Counts))
	}
	mapped := mappings()
	scrape := func() {
		if status, body := s.get("/metrics"); status != http.StatusOK {
			t.Fatalf("status %d: %s", status, body)
		}
	}
	count := func() (goroutines, descriptors int, heap uint64) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		var memory runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&memory)
		return runtime.NumGoroutine(), len(entries), memory.HeapAlloc
	}
	const least, most, fair = 300, 10_000, 4 << 20
	for range 50 { // buffers and pools grow
		scrape()
	}
	goroutines, descriptors, heap := count()
	scrapes, until := 0, time.Now().Add(2*time.Second)
	for ; scrapes < most && (scrapes < least || time.Now().Before(until)); scrapes++ {
		scrape()
	}
	// What a scrape has closed ends a moment later, at the other end, too.
	var goroutinesNow, descriptorsNow int
	var heapNow uint64
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		goroutinesNow, descriptorsNow, heapNow = count()
		if goroutinesNow <= goroutines && descriptorsNow <= descriptors || time.Now().After(deadline) {
			break
		}
	}
	t.Logf("%d scrapes: goroutines %d, then %d; descriptors %d, then %d; heap %d KiB, then %d KiB",
		scrapes, goroutines, goroutinesNow, descriptors, descriptorsNow, heap>>10, heapNow>>10)
	if goroutinesNow > goroutines || descriptorsNow > descriptors {
		t.Error("goroutines or descriptors are left behind")
	}
	if heapNow > heap+fair {
		t.Error("the heap grows")
	}
	if n := mappings(); n != mapped || n == 0 {
		t.Errorf("the file of counters was mapped %d times, and is %d times", mapped, n)
	}
}

// Whoever does not read and does not close holds nobody else up.
func TestSlowClients(t *testing.T) {
	w := newWorld(t)
	w.many(1)
	s := w.serve(t)
	for range maxConnections - 1 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.path}); err != nil {
			t.Fatal(err)
		}
	}
	if status, _ := s.get("/metrics"); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	if err := s.end(); err != nil {
		t.Error(err)
	}
}
