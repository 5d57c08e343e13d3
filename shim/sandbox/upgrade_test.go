package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/vm"

	machines "github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// A VM uses to its end the programs of the kit that it began with: what is installed, or removed,
// meanwhile is not for the containers and files that join it.
func TestReplacedKit(t *testing.T) {
	built := t.TempDir()
	for _, build := range []*exec.Cmd{
		exec.Command("../../hack/build-placeholder", filepath.Join(built, placeholderFile)),
		exec.Command("go", "build", "-o", filepath.Join(built, shieldFile), "../../cmd/msb-shield"),
	} {
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if printed, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
	}
	for name, change := range map[string]func(path string) error{
		"replaced": func(path string) error {
			if err := os.WriteFile(path+".new", []byte("#!/bin/false\n"), 0o755); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			kit := t.TempDir()
			if err := os.CopyFS(kit, os.DirFS(built)); err != nil {
				t.Fatal(err)
			}
			platform := Platform{
				Kit: kit, Drivers: []vm.Driver{new(machines.Driver)}, BootTimeout: time.Minute, Budgets: guest.DefaultBudgets,
				Placeholder: startPlaceholder,
			}
			var config Config
			config.Network.Host = true
			p, err := Prepare(t.TempDir(), platform, config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}()
			s, err := p.Boot(t.Context(), nothing)
			if err != nil {
				t.Fatal(err)
			}
			for _, program := range []string{placeholderFile, shieldFile} {
				if err := change(filepath.Join(kit, program)); err != nil {
					t.Fatal(err)
				}
			}
			stand, err := s.ForContainer("")
			if err != nil {
				t.Fatalf("a container that joins: %v", err)
			}
			defer stand.End(0)
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			entry, err := s.shield.Add("file", file, nil, "")
			if err != nil {
				t.Fatalf("a file that joins: %v", err)
			}
			entry.Close()
		})
	}
}
