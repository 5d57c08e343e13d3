package shell

import (
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A program is one of the share, by a name alone.
func TestCommand(t *testing.T) {
	for _, c := range []struct {
		stream *api.ShellStream
		path   string // empty if it is refused
	}{
		{&api.ShellStream{Share: "dm_1", Args: []string{"busybox", "sh"}}, "/run/msb/pool/dm_1/busybox"},
		{&api.ShellStream{Share: "dm_1"}, ""},
		{&api.ShellStream{Args: []string{"busybox"}}, ""},
		{&api.ShellStream{Share: "..", Args: []string{"busybox"}}, ""},
		{&api.ShellStream{Share: "a/b", Args: []string{"busybox"}}, ""},
		{&api.ShellStream{Share: "dm_1", Args: []string{"../rf_2/sh"}}, ""},
		{&api.ShellStream{Share: "dm_1", Args: []string{""}}, ""},
		{&api.ShellStream{Share: "dm_1", Args: []string{"busybox"}, Stdin: "../x"}, ""},
		{&api.ShellStream{Share: "dm_1", Args: []string{"busybox"}, Stderr: "a/b"}, ""},
	} {
		cmd, err := command(c.stream)
		if (err == nil) != (c.path != "") || err == nil && cmd.Path != c.path {
			t.Errorf("%v: %v, %v", c.stream, cmd, err)
		}
	}
}
