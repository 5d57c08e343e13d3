package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

func TestDrivers(t *testing.T) {
	for configured, want := range map[string]string{"auto": "krun qemu", "krun": "krun", "qemu": "qemu"} {
		var names []string
		for _, driver := range drivers(config.Config{Driver: configured, Kit: "/kit"}) {
			names = append(names, driver.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", configured, got, want)
		}
	}
}

// fake is a driver that fails where it is told to.
type fake struct {
	vm.Machine
	name         string
	check, start error
}

func (f fake) Name() string                { return f.name }
func (f fake) Check(context.Context) error { return f.check }
func (f fake) Start(context.Context, vm.Config) (vm.Machine, error) {
	return f, f.start
}

// A driver that the host cannot run is passed over; one that fails is not.
func TestStartFirst(t *testing.T) {
	host := fmt.Errorf("no KVM: %w", errdefs.ErrFailedPrecondition)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		drivers []vm.Driver
		want    string // the driver's name, or the error
	}{
		"the first can":            {[]vm.Driver{fake{name: "a"}, fake{name: "b"}}, "a"},
		"the first cannot":         {[]vm.Driver{fake{name: "a", check: host}, fake{name: "b"}}, "b"},
		"it turns out at start":    {[]vm.Driver{fake{name: "a", start: host}, fake{name: "b"}}, "b"},
		"the first fails":          {[]vm.Driver{fake{name: "a", start: broken}, fake{name: "b"}}, "driver a: broken"},
		"none can":                 {[]vm.Driver{fake{name: "a", check: host}, fake{name: "b", check: host}}, "driver a: no KVM: failed precondition; driver b: no KVM: failed precondition"},
		"the only one there is":    {[]vm.Driver{fake{name: "a", check: host}}, "driver a: no KVM: failed precondition"},
		"the second fails at once": {[]vm.Driver{fake{name: "a", check: host}, fake{name: "b", check: broken}}, "driver b: broken"},
	} {
		driver, _, err := startFirst(t.Context(), c.drivers, vm.Config{})
		got := fmt.Sprint(err)
		if err == nil {
			got = driver.Name()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
