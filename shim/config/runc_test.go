package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options of runc are accepted where msb does what they say. Of the others, the error
// names the option, ctr's flag, and the remedy.
func TestRuncOptions(t *testing.T) {
	for name, c := range map[string]struct {
		given *options.Options
		says  string
	}{
		"none":            {&options.Options{}, ""},
		"systemd":         {&options.Options{SystemdCgroup: true}, ""},
		"owners of pipes": {&options.Options{IoUid: 1, IoGid: 2}, ""},
		//lint:ignore SA1019 containerd sends them
		"where the shim is": {&options.Options{TaskApiAddress: "unix:///x", TaskApiVersion: 3}, ""},
		"no pivot":          {&options.Options{NoPivotRoot: true, IoUid: 1}, "NoPivotRoot (ctr run --no-pivot)"},
		"no keyring":        {&options.Options{NoNewKeyring: true}, "NoNewKeyring"},
		"group":             {&options.Options{ShimCgroup: "/x"}, "ctr run --cgroup"},
		"another runc":      {&options.Options{BinaryName: "/x"}, "BinaryName (ctr run --runc-binary)"},
		"its root":          {&options.Options{Root: "/x"}, "Root (ctr run --runc-root)"},
		"checkpoints":       {&options.Options{CriuImagePath: "/x"}, "CriuImagePath"},
		"working":           {&options.Options{CriuWorkPath: "/x"}, "CriuWorkPath"},
	} {
		value, err := typeurl.MarshalAny(c.given)
		if err != nil {
			t.Fatal(err)
		}
		checkRefused(t, name, value, c.says)
	}
	fields := reflect.TypeFor[options.Options]()
	for i := range fields.NumField() {
		if field := fields.Field(i); field.IsExported() {
			if _, known := runcOptions[field.Name]; !known {
				t.Errorf("no rule for %s", field.Name)
			}
		}
	}
}

// containerd's CRI plugin passes on the section "options" of a runtime as it is written.
func TestRuncOptionsInConfiguration(t *testing.T) {
	for body, says := range map[string]string{
		"SystemdCgroup = true": "",
		"BinaryName = ''\nCriuImagePath = ''\nIoUid = 0\nNoPivotRoot = false\nRoot = ''\nSystemdCgroup = false": "",
		"SystemdCgroup = true\n[vm]\ncpus = 7": "",
		"BinaryName = '/x'":                    "BinaryName (ctr run --runc-binary)",
		"no_such_setting = 1":                  "unknown setting no_such_setting",
		"SystemdCgroup = true\nno_such = 1":    "unknown setting no_such",
		"noPivotRoot = true":                   "NoPivotRoot",
	} {
		value, err := typeurl.MarshalAny(&runtimeoptions.Options{ConfigBody: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		config := checkRefused(t, body, value, says)
		if strings.Contains(body, "cpus") && config.VM.CPUs != 7 {
			t.Errorf("%q: %+v", body, config)
		}
	}
}

func TestOtherOptions(t *testing.T) {
	checkRefused(t, "another runtime's", &anypb.Any{TypeUrl: "runsc.options", Value: []byte("x")}, "of type runsc.options are another runtime's: leave them out")
	checkRefused(t, "damaged", &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, "runtime options: ")
}

func checkRefused(t *testing.T, name string, value typeurl.Any, says string) Config {
	t.Helper()
	config, err := Load(value)
	switch {
	case says == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says)):
		t.Errorf("%s: %v, want %q", name, err, says)
	}
	return config
}
