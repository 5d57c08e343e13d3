package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		check func(Config) bool
		err   string
	}{
		"empty": {"", func(c Config) bool { return c == Default() }, ""},
		"all": {"driver='qemu'\nkit='/k'\n[vm]\ncpus=3\nmemory='1GiB'\nboot_timeout='5s'\n[qemu]\npath='/q'\nvirtiofsd='/v'", func(c Config) bool {
			return c.VM.CPUs == 3 && c.VM.Memory == 1<<30 && c.VM.BootTimeout == Duration(5*time.Second) && c.QEMU.Virtiofsd == "/v"
		}, ""},
		"memory stays": {"[vm]\nreturn_memory=false", func(c Config) bool { return !c.VM.ReturnMemory && Default().VM.ReturnMemory }, ""},
		"VM for host":  {"[compat]\nhost_namespaces='vm'", func(c Config) bool { return c.Compat.VMForHost() && !Default().Compat.VMForHost() }, ""},
		"for host":     {"[compat]\nhost_namespaces='guest'", nil, "unknown compat.host_namespaces"},
		"traces":       {"[tracing]\nendpoint='https://c:4318/base'", func(c Config) bool { return c.Tracing.Endpoint == "https://c:4318/base" }, ""},
		"no traces":    {"[tracing]\nendpoint='off'", func(c Config) bool { return c.Tracing.Endpoint == "off" && Default().Tracing.Endpoint == "" }, ""},
		"no address":   {"[tracing]\nendpoint='c:4318'", nil, "tracing.endpoint has to be an address"},
		"password":     {"[tracing]\nendpoint='http://u:p@c:4318'", nil, "tracing.endpoint has to be an address such as http://127.0.0.1:4318, without a user or a query, or off"},
		"level":        {"[log]\nlevel='warn'", func(c Config) bool { return c.Log.Level == "warn" && Default().Log.Level == "" }, ""},
		"no level":     {"[log]\nlevel='warning'", nil, "unknown log.level \"warning\", it is trace, debug, info, warn or error"},
		"an end":       {"[log]\nlevel='fatal'", nil, "unknown log.level"},
		"unknown":      {"kernel='/k'", nil, "unknown setting"},
		"driver":       {"driver='x'", nil, "unknown driver"},
		"no CPUs":      {"[vm]\ncpus=0", nil, "vm.cpus"},
		"size":         {"[vm]\nmemory='much'", nil, "not a size"},
		"negative":     {"[vm]\nmemory='-1'", nil, "not a size"},
		"time":         {"[vm]\nboot_timeout='0s'", nil, "not a time"},
		"type":         {"driver=1", nil, "Driver"},
		"not TOML":     {"{", nil, "toml"},
		"wrong nested": {"vm=1", nil, "VM"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := Parse([]byte(c.file))
			if c.err != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("Parse = %v, want %q", err, c.err)
				}
			} else if err != nil || !c.check(config) {
				t.Errorf("Parse = %+v, %v", config, err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[vm]\ncpus=7"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(value any) (Config, error) {
		options, err := typeurl.MarshalAny(value)
		if err != nil {
			t.Fatal(err)
		}
		return Load(options)
	}
	if c, err := load(&runtimeoptions.Options{ConfigPath: file}); err != nil || c.VM.CPUs != 7 || !strings.HasSuffix(c.Kit, "lib/msb") {
		t.Errorf("by path: %+v, %v", c, err)
	}
	if c, err := load(&runtimeoptions.Options{ConfigBody: []byte("kit='/k'")}); err != nil || c.Kit != "/k" {
		t.Errorf("by body: %+v, %v", c, err)
	}
	if _, err := load(&runtimeoptions.Options{ConfigPath: "/no/file"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Load(nil); err != nil {
		t.Errorf("no options: %v", err)
	}
	prefix, err := installPrefix()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(prefix, "config.toml")
	if err := os.WriteFile(own, []byte("[vm]\ncpus=5"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(own)
	if c, err := Load(nil); err != nil || c.VM.CPUs != 5 {
		t.Errorf("by the install prefix: %+v, %v", c, err)
	}
}
