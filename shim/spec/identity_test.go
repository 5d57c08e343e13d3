package spec

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// Who stays who it is: no root, no capabilities, no way to any.
func TestIdentityFixed(t *testing.T) {
	one := []string{"CAP_NET_RAW"}
	user := specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5}}
	for name, c := range map[string]struct {
		process specs.Process
		want    bool
	}{
		"a user":                        {specs.Process{User: user}, false},
		"without new privileges":        {specs.Process{User: user, NoNewPrivileges: true}, true},
		"root":                          {specs.Process{NoNewPrivileges: true}, false},
		"with no capability":            {specs.Process{User: user, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Bounding: one}}, true},
		"with a permitted capability":   {specs.Process{User: user, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Permitted: one}}, false},
		"with an effective capability":  {specs.Process{User: user, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Effective: one}}, false},
		"with an inheritable":           {specs.Process{User: user, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Inheritable: one}}, false},
		"with an ambient":               {specs.Process{User: user, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Ambient: one}}, false},
		"without capabilities but root": {specs.Process{User: specs.User{GID: 3}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}}, false},
	} {
		data, err := json.Marshal(c.process)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ExecIdentity(&anypb.Any{Value: data})
		if err != nil || got.Fixed != c.want || !got.Equal(identityOf(&c.process)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := ExecIdentity(&anypb.Any{Value: []byte("{")}); err == nil {
		t.Error("what is no process has an identity")
	}
}
