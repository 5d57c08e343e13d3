package spec

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What is said to be possible is not refused, and what is refused is not said.
func TestFeatures(t *testing.T) {
	for _, option := range mountOptions {
		mount := specs.Mount{Destination: "/d", Type: "bind", Source: "/s", Options: []string{option}}
		if _, err := New(container(inUserNamespace("", shifted, shifted), withMount(mount)), "/bundle"); err != nil {
			t.Errorf("%s: %v", option, err)
		}
	}
	for _, option := range []string{"shared", "rshared"} {
		if slices.Contains(mountOptions, option) {
			t.Errorf("%s is not possible", option)
		}
	}
}
