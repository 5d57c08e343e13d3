package trace

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/internal/smallfile"
)

// A File is one that a setting names. An empty Path is none.
type File struct {
	// Setting is its name: tracing.certificate, or a variable of the environment.
	Setting string
	Path    string
	// Shown is whether an error may name the path: what is in environments is told to nobody.
	Shown bool
}

// A FileError is about a file that cannot be used. None of what the file has is in it.
type FileError struct {
	// Setting names the file.
	Setting string
	err     error
}

func (e *FileError) Error() string { return e.err.Error() }
func (e *FileError) Unwrap() error { return e.err }

func (f File) wrong(err error) *FileError {
	what := f.Setting
	if f.Shown && f.Path != "" {
		what += " (" + f.Path + ")"
	}
	return &FileError{f.Setting, fmt.Errorf("%s cannot be used, and no spans are sent until it can: %w", what, err)}
}

func (f File) read() ([]byte, error) {
	data, err := f.content()
	if err != nil {
		if of := new(fs.PathError); errors.As(err, &of) {
			err = of.Err // the path is told, or it is not to be
		}
		return nil, f.wrong(err)
	}
	return data, nil
}

func (f File) content() ([]byte, error) {
	if !filepath.IsAbs(f.Path) {
		return nil, errors.New("its path is not absolute")
	}
	return smallfile.Read(f.Path)
}

// Check reads the files that a target names, as each request does, and tells all that is wrong
// with them.
func (t Target) Check() (wrong []*FileError) {
	_, authorities := t.authorities()
	_, certificates := t.certificates()
	_, headers := t.headers()
	for _, err := range []error{authorities, certificates, headers} {
		if of := new(FileError); errors.As(err, &of) {
			wrong = append(wrong, of)
		}
	}
	return wrong
}

// security is what TLS needs to know.
func (t Target) security() (*tls.Config, error) {
	authorities, err := t.authorities()
	if err != nil {
		return nil, err
	}
	certificates, err := t.certificates()
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities, Certificates: certificates}, err
}

// authorities are nil for the host's.
func (t Target) authorities() (*x509.CertPool, error) {
	if t.Authorities.Path == "" {
		return nil, nil
	}
	data, err := t.Authorities.read()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, t.Authorities.wrong(errors.New("it has no certificate in PEM"))
	}
	return pool, nil
}

func (t Target) certificates() ([]tls.Certificate, error) {
	switch {
	case t.Certificate.Path == "" && t.Key.Path == "":
		return nil, nil
	case t.Certificate.Path == "":
		return nil, t.Key.wrong(fmt.Errorf("it is the key of a certificate, and %s names none", t.Certificate.Setting))
	}
	shown, err := t.Certificate.read()
	if err != nil {
		return nil, err
	}
	key := shown
	if t.Key.Path != "" {
		if key, err = t.Key.read(); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair(shown, key)
	if err != nil {
		return nil, t.Certificate.wrong(fmt.Errorf("with the key of %s: %w", t.Key.Setting, err))
	}
	return []tls.Certificate{pair}, nil
}

// headers are those of each request.
func (t Target) headers() (map[string]string, error) {
	if t.HeadersFile.Path == "" {
		return t.Headers, nil
	}
	data, err := t.HeadersFile.read()
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); !ok || !isHeader(name, value) {
			return nil, t.HeadersFile.wrong(fmt.Errorf("line %d is no header such as Authorization: Bearer TOKEN", number))
		}
		all[name] = value
	}
	return all, nil
}
