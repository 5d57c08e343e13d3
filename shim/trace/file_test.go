package trace

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/smallfile"
)

// keep writes a file of a test, and returns its path.
func keep(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// certify makes a certificate that vouches for itself, and its key, in PEM.
func certify(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"collector.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// A strict collector shows a certificate of its own, and demands another and a token.
type strict struct {
	*httptest.Server
	// The files of who may send there.
	authorities, certificate, key, both, headers string
	got                                          chan http.Header
}

const token = "Bearer s3cret"

func newStrict(t *testing.T, dir string) *strict {
	s := &strict{got: make(chan http.Header, 16)}
	server, serverKey := certify(t)
	client, clientKey := certify(t)
	own, err := tls.X509KeyPair([]byte(server), []byte(serverKey))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM([]byte(client))
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		s.got <- r.Header
	}))
	s.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.authorities, s.certificate, s.key = keep(t, dir, "ca.pem", server), keep(t, dir, "cert.pem", client), keep(t, dir, "key.pem", clientKey)
	s.both = keep(t, dir, "both.pem", client+clientKey)
	s.headers = keep(t, dir, "headers", "# of the collector\r\n\nAuthorization: "+token+"\nX-Scope: a:b\n")
	return s
}

// postWith makes a request as a shim with an environment.
func postWith(t *testing.T, environment map[string]string) error {
	t.Helper()
	target, ok, err := FromEnvironment(func(name string) string { return environment[name] })
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	tracer := Open(target, "space", "pod", "v1")
	defer tracer.Close(t.Context())
	tracer.patience = time.Hour
	return tracer.post(nil)
}

// A collector may have an authority of its own, ask for a certificate, and for a token. What is
// not as it asks is sent nothing, and says by which setting.
func TestStrictCollector(t *testing.T) {
	dir := t.TempDir()
	s := newStrict(t, dir)
	other, otherKey := certify(t)
	wrong, wrongKey := keep(t, dir, "other.pem", other), keep(t, dir, "other.key", otherKey)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	large := keep(t, dir, "large", strings.Repeat("#\n", smallfile.Most))
	escaped := "Authorization=Bearer%20s3cret"
	for name, c := range map[string]struct {
		variables []string
		err       string // empty: the spans came
	}{
		"ours":               {[]string{Certificate, s.authorities, ClientCertificate, s.certificate, ClientKey, s.key, HeadersFile, s.headers}, ""},
		"key in the same":    {[]string{Certificate, s.authorities, ClientCertificate, s.both, HeadersFile, s.headers}, ""},
		"containerd's":       {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", s.URL, "OTEL_EXPORTER_OTLP_CERTIFICATE", s.authorities, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", s.certificate, "OTEL_EXPORTER_OTLP_CLIENT_KEY", s.key, "OTEL_EXPORTER_OTLP_HEADERS", escaped}, ""},
		"of its traces":      {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", s.URL, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", s.authorities, "OTEL_EXPORTER_OTLP_CERTIFICATE", wrong, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", s.certificate, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", s.key, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", escaped}, ""},
		"ours win":           {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", s.URL, "OTEL_EXPORTER_OTLP_CERTIFICATE", wrong, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", wrong, "OTEL_EXPORTER_OTLP_CLIENT_KEY", wrongKey, "OTEL_EXPORTER_OTLP_HEADERS", "Authorization=x", Certificate, s.authorities, ClientCertificate, s.both, HeadersFile, s.headers}, ""},
		"not another's":      {[]string{Endpoint, s.URL, "OTEL_EXPORTER_OTLP_ENDPOINT", s.URL, "OTEL_EXPORTER_OTLP_CERTIFICATE", s.authorities, ClientCertificate, s.both, HeadersFile, s.headers}, "certificate"},
		"wrong authority":    {[]string{Certificate, wrong, ClientCertificate, s.both, HeadersFile, s.headers}, "certificate"},
		"wrong certificate":  {[]string{Certificate, s.authorities, ClientCertificate, wrong, ClientKey, wrongKey, HeadersFile, s.headers}, "certificate"},
		"no certificate":     {[]string{Certificate, s.authorities, HeadersFile, s.headers}, "certificate"},
		"no token":           {[]string{Certificate, s.authorities, ClientCertificate, s.both}, "401"},
		"no file":            {[]string{Certificate, dir + "/no"}, "tracing.certificate (" + dir + "/no) cannot be used, and no spans are sent until it can: no such file or directory"},
		"directory":          {[]string{Certificate, dir}, "it is no regular file"},
		"FIFO":               {[]string{HeadersFile, fifo}, "it is no regular file"},
		"large":              {[]string{HeadersFile, large}, "larger than 1 MiB"},
		"relative":           {[]string{Certificate, "ca.pem"}, "its path is not absolute"},
		"no PEM":             {[]string{Certificate, s.headers}, "it has no certificate in PEM"},
		"another's key":      {[]string{Certificate, s.authorities, ClientCertificate, s.certificate, ClientKey, wrongKey}, "tracing.client_certificate (" + s.certificate + ") cannot be used"},
		"no key":             {[]string{Certificate, s.authorities, ClientCertificate, s.certificate}, "with the key of tracing.client_key"},
		"key of none":        {[]string{Certificate, s.authorities, ClientKey, s.key}, "tracing.client_certificate names none"},
		"no headers":         {[]string{HeadersFile, s.key}, "line 1 is no header such as"},
		"containerd's is no": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", s.URL, "OTEL_EXPORTER_OTLP_CERTIFICATE", dir + "/no"}, "OTEL_EXPORTER_OTLP_CERTIFICATE cannot be used, and no spans are sent until it can: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			environment := map[string]string{}
			for pair := range slices.Chunk(c.variables, 2) {
				environment[pair[0]] = pair[1]
			}
			if environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "" {
				environment[Endpoint] = s.URL
			}
			err := postWith(t, environment)
			if c.err == "" {
				if err != nil || len(s.got) != 1 {
					t.Fatalf("%v, %d requests came", err, len(s.got))
				}
				if got := <-s.got; environment[HeadersFile] != "" && got.Get("X-Scope") != "a:b" {
					t.Error(got)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || len(s.got) > 0 {
				t.Fatalf("%v, want %q; %d requests came", err, c.err, len(s.got))
			}
			if strings.Contains(err.Error(), "s3cret") || environment[Certificate] == "" && environment[HeadersFile] == "" && strings.Contains(err.Error(), dir) {
				t.Errorf("%v tells what is to be told to nobody", err)
			}
		})
	}
}

// Files are read anew: one that was missing helps when it is there. It is told once, and what is
// sent later comes.
func TestFileComesLater(t *testing.T) {
	dir := t.TempDir()
	s := newStrict(t, dir)
	late := filepath.Join(dir, "late")
	environment := map[string]string{Endpoint: s.URL, Certificate: s.authorities, ClientCertificate: s.both, HeadersFile: late}
	target, _, err := FromEnvironment(func(name string) string { return environment[name] })
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	before := log.L.Logger.Out
	log.L.Logger.SetOutput(&said)
	defer log.L.Logger.SetOutput(before)
	tracer := &Tracer{target: target, patience: time.Hour, ctx: t.Context()}
	for range 3 {
		tracer.send(nil)
		tracer.warned = time.Time{} // a minute later
	}
	if n := strings.Count(said.String(), "tracing.headers_file"); n != 1 {
		t.Errorf("it is told %d times: %s", n, &said)
	}
	if wrong := target.Check(); len(wrong) != 1 || wrong[0].Setting != "tracing.headers_file" {
		t.Errorf("Check: %v", wrong)
	}
	keep(t, dir, "late", "Authorization: "+token)
	tracer.send(nil)
	if len(s.got) != 1 || len(target.Check()) > 0 {
		t.Errorf("%d requests came: %s, %v", len(s.got), &said, target.Check())
	}
}

// A proxy is what a test's collector is behind: whatever it is asked for, it connects to that.
type proxy struct {
	*httptest.Server
	asked chan string // method, address and password of each request
}

func newProxy(t *testing.T, collector string, secured bool) *proxy {
	p := &proxy{asked: make(chan string, 16)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked <- r.Method + " " + r.RequestURI + " " + r.Header.Get("Proxy-Authorization")
		if r.Method != http.MethodConnect {
			return // it is the collector, too
		}
		if collector == "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", collector)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(to, from) }()
		_, _ = io.Copy(from, to)
	}))
	p.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	if secured {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

// Proxies of the environment are asked, unless NO_PROXY has the collector, and are told nothing of
// what goes to one with https.
func TestProxy(t *testing.T) {
	s := newStrict(t, t.TempDir())
	p := newProxy(t, s.Listener.Addr().String(), false)
	refuses := newProxy(t, "", false)
	secured := newProxy(t, "", true)
	const basic = "Basic dXNlcjpwYXNz" // user:pass
	withUser := strings.Replace(p.URL, "http://", "http://user:pass@", 1)
	files := []string{Certificate + "=" + s.authorities, ClientCertificate + "=" + s.both, HeadersFile + "=" + s.headers}
	for name, c := range map[string]struct {
		endpoint  string
		variables []string
		asked     string // empty: no proxy
		err       string
	}{
		"https":         {"https://collector.test", []string{"HTTPS_PROXY", withUser}, "CONNECT collector.test:443 " + basic, ""},
		"small letters": {"https://collector.test:4318", []string{"https_proxy", p.URL}, "CONNECT collector.test:4318 ", ""},
		"http":          {"http://collector.test", []string{"HTTP_PROXY", withUser}, "POST http://collector.test/v1/traces " + basic, ""},
		"other scheme":  {s.URL, []string{"HTTP_PROXY", "http://127.0.0.1:1"}, "", ""},
		"none for this": {s.URL, []string{"HTTPS_PROXY", "http://127.0.0.1:1", "NO_PROXY", "127.0.0.1"}, "", ""},
		"loopback":      {s.URL, []string{"HTTPS_PROXY", "http://127.0.0.1:1"}, "", ""},
		"refuses":       {"https://collector.test", []string{"HTTPS_PROXY", refuses.URL}, "CONNECT collector.test:443 ", "its answer is 403"},
		"not trusted":   {"https://collector.test", []string{"HTTPS_PROXY", secured.URL}, "", "certificate"},
		"another kind":  {"https://collector.test", []string{"HTTPS_PROXY", "socks5://user:s3cret@127.0.0.1:1"}, "", "is one of socks5"},
		"not there":     {"https://collector.test", []string{"HTTPS_PROXY", "http://user:s3cret@127.0.0.1:1"}, "", "the proxy 127.0.0.1:1: "},
	} {
		t.Run(name, func(t *testing.T) {
			environment := append(slices.Clone(files), Endpoint+"="+c.endpoint)
			for pair := range slices.Chunk(c.variables, 2) {
				environment = append(environment, pair[0]+"="+pair[1])
			}
			output, err := postElsewhere(t, environment)
			if (err == nil) != (c.err == "") || !strings.Contains(output, c.err) || strings.Contains(output, "s3cret") {
				t.Errorf("%v, %s, want %q", err, output, c.err)
			}
			asked := ""
			select {
			case asked = <-p.asked:
			case asked = <-refuses.asked:
			default:
			}
			if asked != c.asked {
				t.Errorf("a proxy was asked %q, want %q", asked, c.asked)
			}
			want := 0
			if c.err == "" && !strings.HasPrefix(c.endpoint, "http:") {
				want = 1
			}
			if len(s.got) != want {
				t.Errorf("%d requests came", len(s.got))
			}
			for len(s.got) > 0 {
				if got := <-s.got; got.Get("Proxy-Authorization") != "" {
					t.Error("the collector was told the proxy's password")
				}
			}
		})
	}
}
