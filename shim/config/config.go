// Package config is what an administrator may set. It comes from the runtime
// options that containerd's configuration names for the runtime, or else from
// a file in the shim's install prefix, or else from Path. It is trusted; annotations,
// which are not, are package spec's.
package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/docker/go-units"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// Path is the configuration file that is read when neither the runtime's options name
// one nor the shim's install prefix has one. It need not exist.
const Path = "/etc/msb/config.toml"

// prefixFile is the one of an install prefix that is a directory of its own, such as
// /opt/msb/current: containerd cannot start a pod with a user namespace whose runtime
// has options that are not runc's, and so cannot be told of a file.
const prefixFile = "config.toml"

// Config is the configuration file's content, defaults filled in.
type Config struct {
	// Driver is the VMM to use: "auto", "krun" or "qemu".
	Driver string `toml:"driver"`
	// Kit is the directory of msb-krun and the guest's kernel and image; by
	// default ../lib/msb beside the shim.
	Kit    string `toml:"kit"`
	VM     VM     `toml:"vm"`
	Krun   Krun   `toml:"krun"`
	QEMU   QEMU   `toml:"qemu"`
	Images Images `toml:"images"`
	Spare  Spare  `toml:"spare"`
	// Tracing says where spans of OpenTelemetry go.
	Tracing Tracing `toml:"tracing"`
	// Compat is for clients that ask for what a VM does not have.
	Compat Compat `toml:"compat"`
	Log    Log    `toml:"log"`
	Debug  Debug  `toml:"debug"`
}

// Log says what a shim logs, from the creation of its first container or sandbox on.
type Log struct {
	// Level is the least that is logged, by containerd's names of levels; empty is debug where
	// containerd has its debug level, and info otherwise.
	Level string `toml:"level"`
}

// levels are containerd's names of them, but for those at which a program ends.
var levels = []string{"trace", "debug", "info", "warn", "error"}

// Debug is what operators may do to find a mistake.
type Debug struct {
	// Shell lets them run programs in a guest, outside of its containers.
	Shell bool `toml:"shell"`
}

// Images says who mounts root file systems that come as images.
type Images struct {
	// Mount is "guest", for the guest's kernel, or "host", for containerd and this host's.
	Mount string `toml:"mount"`
}

const (
	inGuest = "guest"
	onHost  = "host"
)

// InGuest tells whether the guest mounts images.
func (i Images) InGuest() bool { return i.Mount == inGuest }

// Tracing says where a shim sends the spans of what it does for containerd.
type Tracing struct {
	// Endpoint is the address of an OTLP collector; empty for the one that the environment of
	// containerd names, if it does, and "off" for none.
	Endpoint string `toml:"endpoint"`
	// Certificate is a file with the authorities that may vouch for an https collector;
	// empty for the host's. ClientCertificate and ClientKey are what it is shown if it asks.
	Certificate       string `toml:"certificate"`
	ClientCertificate string `toml:"client_certificate"`
	ClientKey         string `toml:"client_key"`
	// HeadersFile has the headers of each request: a token there is in no report of a bug.
	HeadersFile string `toml:"headers_file"`
}

// files are the settings that name one.
func (t Tracing) files() map[string]string {
	return map[string]string{
		"certificate": t.Certificate, "client_certificate": t.ClientCertificate, "client_key": t.ClientKey, "headers_file": t.HeadersFile,
	}
}

// Environment has the settings for a shim's daemon.
func (t Tracing) Environment() []string {
	return []string{
		trace.Endpoint + "=" + t.Endpoint, trace.Certificate + "=" + t.Certificate, trace.ClientCertificate + "=" + t.ClientCertificate,
		trace.ClientKey + "=" + t.ClientKey, trace.HeadersFile + "=" + t.HeadersFile,
	}
}

// Getenv is os.Getenv in a daemon whose other variables another has.
func (t Tracing) Getenv(other func(string) string) func(string) string {
	return func(variable string) string {
		for _, pair := range t.Environment() {
			if name, value, _ := strings.Cut(pair, "="); name == variable {
				return value
			}
		}
		return other(variable)
	}
}

// Compat says what clients get that ask for something of the host's that a VM does not
// have: by default, an error.
type Compat struct {
	// HostNamespaces is what a container or pod gets that asks for a PID, IPC or UTS
	// namespace of the host: "refuse", an error, or "vm", one of the VM, which all containers
	// in it have that ask so.
	HostNamespaces string `toml:"host_namespaces"`
}

const (
	refuseHost = "refuse"
	vmForHost  = "vm"
)

// VMForHost tells whether namespaces of the VM stand for the host's.
func (c Compat) VMForHost() bool { return c.HostNamespaces == vmForHost }

// VM sizes machines that neither limits nor annotations size.
type VM struct {
	CPUs   int   `toml:"cpus"`
	Memory Bytes `toml:"memory"`
	// ReturnMemory gives memory that the guest has freed back to the host.
	ReturnMemory bool `toml:"return_memory"`
	// BootTimeout is how long the agent may take to answer.
	BootTimeout Duration `toml:"boot_timeout"`
	// PodAnnotations lets the annotations of a pod size its VM under the Sandbox
	// API, where containerd's own list of those it passes on does not apply.
	PodAnnotations bool `toml:"pod_annotations"`
}

// leastMemory is what a guest needs beside its containers (spec.Overhead).
const leastMemory Bytes = 128 << 20

// Spare says how many VMs boot before they are needed.
type Spare struct {
	// Count is how many of the size that was used last are kept ready; 0: none.
	Count int `toml:"count"`
	// Max is how many there are at most, of all sizes.
	Max int `toml:"max"`
	// Idle is how long one waits to be used before it ends.
	Idle Duration `toml:"idle"`
}

// Krun names the library of the krun driver; by default the kit's.
type Krun struct {
	Library string `toml:"library"`
}

// QEMU names the programs of the qemu driver; by default they are looked up.
type QEMU struct {
	Path      string `toml:"path"`
	Virtiofsd string `toml:"virtiofsd"`
}

// Bytes is a size such as "512MiB".
type Bytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	value, err := units.RAMInBytes(string(text))
	if err != nil || value <= 0 {
		return fmt.Errorf("%q is not a size such as 512MiB", text)
	}
	*b = Bytes(value)
	return nil
}

// Duration is a time such as "60s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	value, err := time.ParseDuration(string(text))
	if err != nil || value <= 0 {
		return fmt.Errorf("%q is not a time such as 60s", text)
	}
	*d = Duration(value)
	return nil
}

// Default is the configuration of an installation without a file.
func Default() Config {
	return Config{
		Driver: "auto",
		VM:     VM{CPUs: 1, Memory: 512 << 20, ReturnMemory: true, BootTimeout: Duration(time.Minute)},
		Images: Images{Mount: inGuest},
		Spare:  Spare{Max: 4, Idle: Duration(10 * time.Minute)},
		Compat: Compat{HostNamespaces: refuseHost},
	}
}

// Load takes the options of a Create request; nil means none were given.
func Load(options typeurl.Any) (Config, error) {
	layers, err := read(options)
	if err != nil {
		return Config{}, fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
	}
	return Resolve(layers)
}

func read(options typeurl.Any) ([]Layer, error) {
	if options == nil || len(options.GetValue()) == 0 {
		return readDefault()
	}
	value, err := typeurl.UnmarshalAny(options)
	if err != nil && !errors.Is(err, typeurl.ErrNotFound) { // another runtime's type
		return nil, fmt.Errorf("runtime options: %w", err)
	}
	switch given := value.(type) {
	case *runtimeoptions.Options:
		switch {
		case len(given.ConfigBody) > 0:
			data, err := withoutRunc(given.ConfigBody)
			return []Layer{{"runtime options", data}}, err
		case given.ConfigPath != "":
			return readFile(given.ConfigPath, false)
		}
		return readDefault()
	case *runcoptions.Options:
		if err := checkRunc(given); err != nil {
			return nil, err
		}
		return readDefault()
	}
	return nil, fmt.Errorf("runtime options of type %s are another runtime's: leave them out, or name a file of msb's settings by ConfigPath (ctr run --runtime-config-path; docs/configuration.md)", options.GetTypeUrl())
}

// Parse reads a configuration file. Unknown settings are errors: a misspelt one
// must not be passed over.
func Parse(data []byte) (Config, error) { return parse([]Layer{{Data: data}}) }

func parse(layers []Layer) (Config, error) {
	config := Default()
	for _, layer := range layers {
		if err := layer.decode(&config); err != nil {
			var unknown *toml.StrictMissingError
			if errors.As(err, &unknown) {
				return Config{}, fmt.Errorf("unknown setting %s: %w", strings.Join(unknown.Errors[0].Key(), "."), errdefs.ErrInvalidArgument)
			}
			return Config{}, fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
		}
	}
	if config.VM.CPUs < 1 {
		return Config{}, fmt.Errorf("vm.cpus is %d and must be at least 1: %w", config.VM.CPUs, errdefs.ErrInvalidArgument)
	}
	if config.VM.Memory < leastMemory {
		return Config{}, fmt.Errorf("vm.memory is %s, which is less than the %s that a guest needs: %w", config.VM.Memory, leastMemory, errdefs.ErrInvalidArgument)
	}
	if config.Spare.Count < 0 || config.Spare.Max < 0 {
		return Config{}, fmt.Errorf("spare.count is %d and spare.max %d, and neither may be negative: %w", config.Spare.Count, config.Spare.Max, errdefs.ErrInvalidArgument)
	}
	if value := config.Images.Mount; value != inGuest && value != onHost {
		return Config{}, fmt.Errorf("unknown images.mount %q, it is %s or %s: %w", value, inGuest, onHost, errdefs.ErrInvalidArgument)
	}
	if value := config.Compat.HostNamespaces; value != refuseHost && value != vmForHost {
		return Config{}, fmt.Errorf("unknown compat.host_namespaces %q, it is %s or %s: %w", value, refuseHost, vmForHost, errdefs.ErrInvalidArgument)
	}
	if value := config.Log.Level; value != "" && !slices.Contains(levels, value) {
		return Config{}, fmt.Errorf("unknown log.level %q, it is trace, debug, info, warn or error: %w", value, errdefs.ErrInvalidArgument)
	}
	if value := config.Tracing.Endpoint; value != "" && value != trace.Off {
		if err := trace.CheckEndpoint(value); err != nil {
			return Config{}, fmt.Errorf("tracing.endpoint %w, or off: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	files := config.Tracing.files()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path := files[name]; path != "" && !filepath.IsAbs(path) { // which may be what is for the file, and is not repeated
			return Config{}, fmt.Errorf("tracing.%s has to be the absolute path of a file: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	if name := withNUL(config); name != "" {
		return Config{}, fmt.Errorf("%s has a character NUL, which no path or address may have: %w", name, errdefs.ErrInvalidArgument)
	}
	switch config.Driver {
	case "auto", "krun", "qemu":
		return config, nil
	}
	return Config{}, fmt.Errorf("unknown driver %q, it is auto, krun or qemu: %w", config.Driver, errdefs.ErrInvalidArgument)
}

// installPrefix is the directory that the shim is installed in, as bin/….
func installPrefix() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding where the shim is installed: %w", err)
	}
	return filepath.Dir(filepath.Dir(self)), nil
}

// optionsFile is the file of a bundle with the runtime's options, which a shim of
// the Sandbox API gets when it is started and not again.
const optionsFile = "runtime-options"

// SaveOptions keeps the runtime's options in a bundle; nil means none.
func SaveOptions(bundle string, options *anypb.Any) error {
	data, err := proto.Marshal(options)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, optionsFile), data, 0o600)
}

// SavedOptions are the runtime's options that a bundle keeps.
func SavedOptions(bundle string) (*anypb.Any, error) {
	data, err := os.ReadFile(filepath.Join(bundle, optionsFile))
	if err != nil {
		return nil, fmt.Errorf("the runtime's options: %w", err)
	}
	options := new(anypb.Any)
	if err := proto.Unmarshal(data, options); err != nil {
		return nil, fmt.Errorf("the runtime's options: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	return options, nil
}

// LoadSaved is Load with the options that a bundle keeps.
func LoadSaved(bundle string) (Config, error) {
	options, err := SavedOptions(bundle)
	if err != nil {
		return Config{}, err
	}
	return Load(options)
}
