package trace

import (
	"context"
	"encoding/pem"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/test/collector"
)

// flood makes more spans than a queue holds.
func flood(t *testing.T, tracer *Tracer) {
	method := tracer.Traced("task", map[string]ttrpc.Method{"Exec": work})["Exec"]
	for range queued {
		_, _ = method(t.Context(), func(any) error { return nil })
	}
	if n := len(tracer.spans); n > queued {
		t.Errorf("%d spans wait", n)
	}
}

// Whatever a collector does, nobody waits for it, and the end takes no longer than it may.
func TestHostileCollector(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	var redirected atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { redirected.Store(true) }))
	defer elsewhere.Close()
	for name, handler := range map[string]http.HandlerFunc{
		"hangs":  func(http.ResponseWriter, *http.Request) { <-hung },
		"fails":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"resets": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"sends": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"chatters": func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		},
		"has long headers": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.CloseClientConnections()
			tracer := Open(Target{URL: server.URL}, "space", "pod", "v1")
			tracer.patience = time.Hour // the end does not wait for that, either
			if name != "hangs" {
				if err := tracer.post(nil); (err == nil) != (name == "chatters") {
					t.Errorf("the answer to a request: %v", err)
				}
			}
			flood(t, tracer)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			tracer.Close(ended)
			flood(t, tracer) // what ends after the end
		})
	}
	if redirected.Load() {
		t.Error("spans went where the collector has sent them")
	}
}

// A collector that is not there.
func TestNoCollector(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	tracer := Open(Target{URL: "http://" + address}, "space", "pod", "v1")
	if err := tracer.post(nil); err == nil {
		t.Error("nobody has answered, and there is no error")
	}
	flood(t, tracer)
	tracer.Close(t.Context())
}

// A collector over TLS has to have a certificate that the host trusts, or is sent nothing.
func TestCertificate(t *testing.T) {
	var kept collector.Collector
	server := httptest.NewUnstartedServer(&kept)
	server.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	authorities := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authorities, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{false, true} {
		environment := []string{Endpoint + "=" + server.URL, "SSL_CERT_DIR=" + t.TempDir()}
		if trusted {
			environment = append(environment, "SSL_CERT_FILE="+authorities)
		}
		output, err := postElsewhere(t, environment)
		if (err == nil) != trusted || !trusted && !strings.Contains(output, "certificate") {
			t.Errorf("trusted: %v: %v, %s", trusted, err, output)
		}
	}
}

const postOnly = "MSB_TEST_POST_ONLY"

// postElsewhere makes a request in another process: the host's authorities and proxies are read
// once in each.
func postElsewhere(t *testing.T, environment []string) (output string, err error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestPostOnly$")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(variable), "=")
		return strings.HasSuffix(name, "_PROXY")
	}), append(environment, postOnly+"=1")...)
	said, err := cmd.CombinedOutput()
	return string(said), err
}

// TestPostOnly is postElsewhere's other process.
func TestPostOnly(t *testing.T) {
	if os.Getenv(postOnly) == "" {
		return
	}
	target, _, err := FromEnvironment(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	tracer := Open(target, "space", "pod", "v1")
	defer tracer.Close(t.Context())
	tracer.patience = time.Hour
	if err := tracer.post(nil); err != nil {
		t.Fatal(err)
	}
}

// A request that nothing can end, such as one that reads a file of a server which is gone, does not
// keep a shim.
func TestCloseWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracer := &Tracer{ending: make(chan struct{}), ended: make(chan struct{}), cancel: func() {}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		tracer.Close(ctx)
		if took := time.Since(began); took != parting {
			t.Errorf("Close took %v", took)
		}
	})
}

// Spans are sent while the shim runs, and in requests that are bounded.
func TestBatches(t *testing.T) {
	var kept collector.Collector
	var requests atomic.Int32
	tracer := Open(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		kept.ServeHTTP(w, r)
	})), "space", "pod", "v1")
	changed := kept.Changed()
	method := tracer.Traced("task", map[string]ttrpc.Method{"Exec": work})["Exec"]
	for range 2 * most / 5 {
		_, _ = method(t.Context(), func(any) error { return nil })
	}
	<-changed
	tracer.Close(t.Context())
	if spans, n := len(kept.Spans()), int(requests.Load()); spans != 2*most/5*5 || n < 2 {
		t.Errorf("%d spans came in %d requests", spans, n)
	}
}

func TestFromEnvironment(t *testing.T) {
	for name, c := range map[string]struct {
		variables string
		url       string // empty: no traces
		headers   int
		err       string
	}{
		"nothing":        {"", "", 0, ""},
		"ours":           {"MSB_TRACING_ENDPOINT=http://c:4318/", "http://c:4318/v1/traces", 0, ""},
		"ours wins":      {"MSB_TRACING_ENDPOINT=http://c:4318 OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_SDK_DISABLED=true OTEL_EXPORTER_OTLP_HEADERS=a=b", "http://c:4318/v1/traces", 0, ""},
		"our own alone":  {"MSB_TRACING_ENDPOINT=http://c OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_HEADERS=a=b", "http://c/v1/traces", 0, ""},
		"off":            {"MSB_TRACING_ENDPOINT=off OTEL_EXPORTER_OTLP_ENDPOINT=http://d", "", 0, ""},
		"containerd's":   {"OTEL_EXPORTER_OTLP_ENDPOINT=https://d/base", "https://d/base/v1/traces", 0, ""},
		"its traces":     {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://t/own OTEL_EXPORTER_OTLP_ENDPOINT=http://d", "http://t/own", 0, ""},
		"its headers":    {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_HEADERS=a=b%20c,d=e OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "http://d/v1/traces", 2, ""},
		"its protocol":   {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "", 0, "set tracing.endpoint"},
		"other exporter": {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_TRACES_EXPORTER=none", "", 0, ""},
		"disabled":       {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_SDK_DISABLED=true", "", 0, ""},
		"user":           {"OTEL_EXPORTER_OTLP_ENDPOINT=http://u:p@d", "", 0, "without a user"},
		"their headers":  {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_HEADERS=a=b,c=d OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=b", "http://d/v1/traces", 1, ""},
		"our headers":    {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_HEADERS=a=b MSB_TRACING_HEADERS_FILE=/h", "http://d/v1/traces", 0, ""},
		"odd headers":    {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=b%0d%0ac:d", "", 0, "OTEL_EXPORTER_OTLP_TRACES_HEADERS is not"},
		"no address":     {"OTEL_EXPORTER_OTLP_ENDPOINT=d:4318", "", 0, "such as http"},
		"bad headers":    {"OTEL_EXPORTER_OTLP_ENDPOINT=http://d OTEL_EXPORTER_OTLP_HEADERS=a", "", 0, "name=value"},
	} {
		t.Run(name, func(t *testing.T) {
			environment := map[string]string{}
			for variable := range strings.FieldsSeq(c.variables) {
				name, value, _ := strings.Cut(variable, "=")
				environment[name] = value
			}
			target, ok, err := FromEnvironment(func(name string) string { return environment[name] })
			if c.err != "" {
				if ok || err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, %v, %v, want %q", target, ok, err, c.err)
				}
				return
			}
			if err != nil || ok != (c.url != "") || target.URL != c.url || len(target.Headers) != c.headers {
				t.Errorf("%v, %v, %v", target, ok, err)
			}
		})
	}
}
