package trace

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The variables of a shim's environment that have the settings of [tracing], which win over the
// variables of OpenTelemetry that containerd hands on to its shims. They name files: a secret
// is in none of them.
const (
	Endpoint          = own + "ENDPOINT"
	Certificate       = own + certificate
	ClientCertificate = own + clientCertificate
	ClientKey         = own + clientKey
	HeadersFile       = own + "HEADERS_FILE"

	own = "MSB_TRACING_"
)

// Of variables of both.
const (
	certificate       = "CERTIFICATE"
	clientCertificate = "CLIENT_CERTIFICATE"
	clientKey         = "CLIENT_KEY"
)

// Off is the setting that sends nothing, whatever containerd does.
const Off = "off"

// tracesPath is where a collector takes traces (OTLP, "OTLP/HTTP Request").
const tracesPath = "v1/traces"

// A Target is where spans go, and what is needed to send them there. The files are read for each
// request, and so may be renewed.
type Target struct {
	URL     string
	Headers map[string]string
	// Authorities has those that may vouch for an https collector, instead of the host's.
	Authorities File
	// Certificate and Key are what a shim shows to an https collector that asks. Without a Key
	// that is in the file of the certificate.
	Certificate, Key File
	// HeadersFile has lines such as "Authorization: Bearer …".
	HeadersFile File
	// proxy finds the one that a request goes through; nil for none.
	proxy func(*http.Request) (*url.URL, error)
}

// CheckEndpoint tells what is wrong with a collector's address. One with a password is refused,
// and not repeated: the settings are shown, and are in reports of bugs.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" {
		return errors.New("has to be an address such as http://127.0.0.1:4318, without a user or a query")
	}
	return nil
}

// FromEnvironment is the target that a shim's environment names: msb's configuration, or the
// variables with which containerd's own traces are turned on (containerd, docs/tracing.md). ok
// is false where there is none. Nothing is read yet.
func FromEnvironment(getenv func(string) string) (target Target, ok bool, err error) {
	target = FilesOf(getenv)
	switch endpoint := getenv(Endpoint); {
	case endpoint == Off:
		return Target{}, false, nil
	case endpoint != "":
		target.URL = below(endpoint)
	default:
		if ok, err := target.asContainerd(getenv); !ok {
			return Target{}, false, err
		}
	}
	if err := CheckEndpoint(target.URL); err != nil {
		return Target{}, false, fmt.Errorf("the endpoint of traces %w", err)
	}
	target.proxy = http.ProxyFromEnvironment // this process's, when something is sent
	return target, true, nil
}

// FilesOf are the files that msb's configuration names, of a target that is nowhere yet.
func FilesOf(getenv func(string) string) Target {
	file := func(variable string) File {
		name := "tracing." + strings.ToLower(strings.TrimPrefix(variable, own))
		return File{Setting: name, Path: getenv(variable), Shown: true}
	}
	return Target{
		Authorities: file(Certificate), Certificate: file(ClientCertificate), Key: file(ClientKey), HeadersFile: file(HeadersFile),
	}
}

// asContainerd completes a target by what containerd's own traces have: what msb's configuration
// names stays.
func (t *Target) asContainerd(getenv func(string) string) (ok bool, err error) {
	if disabled, _ := strconv.ParseBool(getenv("OTEL_SDK_DISABLED")); disabled {
		return false, nil
	}
	if exporter := getenv("OTEL_TRACES_EXPORTER"); exporter != "" && exporter != "otlp" {
		return false, nil
	}
	const general, ofTraces = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
	either := func(name string) File {
		if value := getenv(ofTraces + name); value != "" {
			return File{Setting: ofTraces + name, Path: value}
		}
		return File{Setting: general + name, Path: getenv(general + name)}
	}
	if t.URL = cmp.Or(getenv(ofTraces+"ENDPOINT"), below(getenv(general+"ENDPOINT"))); t.URL == "" {
		return false, nil
	}
	if protocol := either("PROTOCOL").Path; protocol != "" && protocol != "http/protobuf" {
		return false, errors.New("msb sends traces as http/protobuf, and containerd is told to use another protocol (OTEL_EXPORTER_OTLP_PROTOCOL): set tracing.endpoint in msb's configuration")
	}
	if t.Authorities.Path == "" {
		t.Authorities = either(certificate)
	}
	if t.Certificate.Path == "" && t.Key.Path == "" {
		t.Certificate, t.Key = either(clientCertificate), either(clientKey)
	}
	if t.HeadersFile.Path == "" {
		if t.Headers, err = headers(either("HEADERS")); err != nil {
			return false, err
		}
	}
	return true, nil
}

// below is where a collector takes traces.
func below(endpoint string) string {
	if endpoint == "" {
		return ""
	}
	return strings.TrimRight(endpoint, "/") + "/" + tracesPath
}

// headers reads name=value,name=value, in which values are escaped as in an address.
func headers(list File) (map[string]string, error) {
	if strings.TrimSpace(list.Path) == "" {
		return nil, nil
	}
	all := map[string]string{}
	for pair := range strings.SplitSeq(list.Path, ",") {
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || err != nil || !isHeader(name, value) {
			return nil, fmt.Errorf("%s is not name=value,name=value", list.Setting)
		}
		all[name] = value
	}
	return all, nil
}

// isHeader tells whether a request may have a header (RFC 9110, 5.1 and 5.5). The library for that,
// httpguts, would bring 400 kB of tables for names of hosts into each shim.
func isHeader(name, value string) bool {
	return name != "" && !strings.ContainsFunc(name, notOfToken) && !strings.ContainsFunc(value, isControl)
}

func notOfToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
