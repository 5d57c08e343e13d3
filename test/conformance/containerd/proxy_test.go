package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go/v1"
)

// The suite pulls public images by name. It takes a proxy from its environment, and
// this one answers for whatever registry it is asked for, with the stand-ins that
// the build made.

// serveImages serves the images of an OCI layout and returns the suite's
// environment for it. dir is for a file.
func serveImages(layout, dir string) (environment []string, err error) {
	images, err := openLayout(layout)
	if err != nil {
		return nil, err
	}
	authority, err := newAuthority()
	if err != nil {
		return nil, err
	}
	registry, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: images, TLSConfig: &tls.Config{GetCertificate: authority.issue}}
	go func() { _ = server.ServeTLS(registry, "", "") }()
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = http.Serve(proxy, tunnel(registry.Addr().String())) }()
	file := filepath.Join(dir, "authority.pem")
	if err := os.WriteFile(file, authority.pem(), 0o600); err != nil {
		return nil, err
	}
	return []string{"HTTPS_PROXY=http://" + proxy.Addr().String(), "SSL_CERT_FILE=" + file}, nil
}

// tunnel is a proxy all of whose tunnels lead to one address.
func tunnel(address string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "for tunnels only", http.StatusMethodNotAllowed)
			return
		}
		server, err := net.Dial("tcp", address)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer server.Close()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		_, _ = io.Copy(client, server)
	}
}

// An authority issues certificates for any name.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificate()
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	return &authority{certificate: parsed, key: key}, err
}

func certificate() *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// issue makes the certificate of the server that a client asks for.
func (a *authority) issue(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	template := certificate()
	template.DNSNames = []string{hello.ServerName}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}, nil
}

// A layout is an OCI image layout, served as a registry (distribution-spec, pull).
type layout struct {
	dir  string
	tags map[string]string // name:tag to digest
}

func openLayout(dir string) (*layout, error) {
	data, err := os.ReadFile(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	l := &layout{dir: dir, tags: make(map[string]string)}
	for _, manifest := range index.Manifests {
		l.tags[manifest.Annotations[v1.AnnotationRefName]] = manifest.Digest.String()
	}
	return l, nil
}

// ServeHTTP implements http.Handler.
func (l *layout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok || path == "" {
		return
	}
	if name, reference, ok := cutLast(path, "/manifests/"); ok {
		if digest, ok := l.tags[name+":"+reference]; ok {
			reference = digest
		}
		l.serve(w, r, reference, true)
	} else if _, digest, ok := cutLast(path, "/blobs/"); ok {
		l.serve(w, r, digest, false)
	} else {
		http.NotFound(w, r)
	}
}

func cutLast(text, separator string) (before, after string, ok bool) {
	at := strings.LastIndex(text, separator)
	if at < 0 {
		return "", "", false
	}
	return text[:at], text[at+len(separator):], true
}

func (l *layout) serve(w http.ResponseWriter, r *http.Request, digest string, manifest bool) {
	data, err := l.blob(digest)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if manifest {
		var typed struct{ MediaType string }
		if err := json.Unmarshal(data, &typed); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", typed.MediaType)
	}
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
}

func (l *layout) blob(digest string) ([]byte, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || strings.Contains(hex, "/") {
		return nil, fmt.Errorf("%s: no such image", digest)
	}
	data, err := os.ReadFile(filepath.Join(l.dir, "blobs", "sha256", hex))
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%s: no such blob", digest)
	}
	return data, err
}
