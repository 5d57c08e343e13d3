package trace

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Endpoint is the variable of a shim's environment with the setting tracing.endpoint. It wins
// over the variables of OpenTelemetry, which containerd hands on to its shims.
const Endpoint = "MSB_TRACING_ENDPOINT"

// Off is the setting that sends nothing, whatever containerd does.
const Off = "off"

// tracesPath is where a collector takes traces (OTLP, "OTLP/HTTP Request").
const tracesPath = "v1/traces"

// A Target is where spans go.
type Target struct {
	URL     string
	Headers map[string]string
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
// is false where there is none.
func FromEnvironment(getenv func(string) string) (target Target, ok bool, err error) {
	either := func(name string) string {
		if value := getenv("OTEL_EXPORTER_OTLP_TRACES_" + name); value != "" {
			return value
		}
		return getenv("OTEL_EXPORTER_OTLP_" + name)
	}
	switch own := getenv(Endpoint); {
	case own == Off:
		return Target{}, false, nil
	case own != "":
		target.URL = below(own)
	default:
		if disabled, _ := strconv.ParseBool(getenv("OTEL_SDK_DISABLED")); disabled {
			return Target{}, false, nil
		}
		if exporter := getenv("OTEL_TRACES_EXPORTER"); exporter != "" && exporter != "otlp" {
			return Target{}, false, nil
		}
		if target.URL = getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"); target.URL == "" {
			target.URL = below(getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
		}
		if target.URL == "" {
			return Target{}, false, nil
		}
		if protocol := either("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
			return Target{}, false, fmt.Errorf("msb sends traces as http/protobuf, and containerd is told to use %q: set tracing.endpoint in msb's configuration", protocol)
		}
		if target.Headers, err = headers(either("HEADERS")); err != nil {
			return Target{}, false, err
		}
	}
	if err := CheckEndpoint(target.URL); err != nil {
		return Target{}, false, fmt.Errorf("the endpoint of traces %w", err)
	}
	return target, true, nil
}

// below is where a collector takes traces.
func below(endpoint string) string {
	if endpoint == "" {
		return ""
	}
	return strings.TrimRight(endpoint, "/") + "/" + tracesPath
}

// headers reads name=value,name=value, in which values are escaped as in an address.
func headers(list string) (map[string]string, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	all := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS is not name=value,name=value")
		}
		all[name] = value
	}
	return all, nil
}
