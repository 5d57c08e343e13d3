package hostile

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

func TestQEMUIntruder(t *testing.T)      { intrude(t, qemuVMM) }
func TestVirtiofsdIntruder(t *testing.T) { intrude(t, fileServer) }

// installed is this test's program as QEMU would be installed, in a prefix of its own. It
// is one that is linked statically and without the race detector: in QEMU's root there is
// no procfs, which that needs.
var installed = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "bin", "qemu")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(filepath.Join(dir, "library"), nil, 0o755)); err != nil {
		return path, err
	}
	own, err := os.Executable()
	if err != nil {
		return path, err
	}
	if static, err := isStatic(own); err != nil || static {
		return path, errors.Join(err, copyFile(path, own))
	}
	build := exec.Command("go", "test", "-c", "-buildvcs=false", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return path, fmt.Errorf("building the payload: %w: %s", err, output)
	}
	return path, nil
})

// isStatic tells a program that needs no other to be started (ld.so(8)).
func isStatic(path string) (bool, error) {
	file, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return !slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// qemuAttempts are tried in QEMU's place. Of our filters it has the one of what root's processes share,
// and it has no capability.
func qemuAttempts() []attempt {
	return append(elsewhere(map[string][]measure{
		"open a host file by its path":                      {ownRoot},
		"the same by /proc/1/root":                          {ownRoot, fewCapabilities},
		"the same by an inherited descriptor":               {noDescriptors},
		"read another sandbox's staged file":                {ownRoot},
		"read a process's memory through procfs":            {ownRoot},
		"write to the guest's disk":                         {readOnlyImage},
		"mount":                                             {fewCapabilities},
		"clone a mount":                                     {fewCapabilities},
		"unmount":                                           {fewCapabilities},
		"chroot":                                            {fewCapabilities},
		"join a namespace":                                  {fewCapabilities},
		"make a namespace":                                  {fewCapabilities},
		"open a file by its handle":                         {fewCapabilities},
		"change the host name":                              {fewCapabilities},
		"trace a process of the host":                       {ownNamespaces, fewCapabilities},
		"read a process's memory":                           {ownNamespaces, fewCapabilities},
		"signal a process of the host":                      {ownNamespaces},
		"attach the host's shared memory":                   {ownNamespaces},
		"connect to an abstract socket of the host":         {ownNamespaces},
		"connect to a port of the host":                     {ownNamespaces},
		"connect to a socket of the host by its path":       {ownRoot},
		"raise a resource limit":                            {lowLimits},
		"take an instance of inotify from the host's root":  {filter},
		"take a group of fanotify from the host's root":     {filter},
		"take bytes of message queues from the host's root": {filter},
		"use a keyring":                                     {filter},
		"take requests of Linux' AIO from the host":         {filter},
		"hold up who opens a file":                          {filter},
	}),
		attempt{"write to a program of the host", []measure{readOnlyImage}, func(t Targets) error { return write(t.Library) }})
}

// stageQEMU makes what QEMU is given. The machine's devices are descriptors of sockets.
func stageQEMU(t *testing.T, without map[measure]bool) scene {
	t.Helper()
	program, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	secret := made(t, filepath.Join(dir, "host", "secret"), "secret", 0o600)
	other := open(t, filepath.Join(dir, "other"))
	foreign := add(t, other, made(t, filepath.Join(dir, "foreign"), "x", 0o600), share.Attributes{})
	container, err := network.Open(mountns.Namespace{}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := container.Close(); err != nil {
			t.Error(err)
		}
	})
	config := vm.Config{
		Network: container.VM(),
		Kernel:  made(t, filepath.Join(dir, "kit", "vmlinux"), "kernel", 0o644),
		Disk:    made(t, filepath.Join(dir, "kit", "guest.erofs"), "disk", 0o644),
		Dir:     filepath.Join(dir, "vm"),
	}
	if err := os.Mkdir(config.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := scene{spec: qemu.Driver{QEMU: program}.Jail(config), targets: attackable(t, dir, secret)}
	s.spec.Files = append(s.spec.Files, socket(t), socket(t))
	s.targets.Other = filepath.Join(dir, "other", "files", foreign.Tag, "foreign")
	s.targets.Image, s.targets.Given, s.targets.Writable = "/kit/guest.erofs", "/kit/guest.erofs", "/dev"
	s.targets.Library = filepath.Join(filepath.Dir(filepath.Dir(program)), "library")
	if without[readOnlyImage] {
		s.writableBinds()
	}
	s.switchOffCommon(t, without)
	return s
}

// serverAttempts are tried in virtiofsd's place, before it has confined itself: until then
// it has nothing of the guest's.
func serverAttempts() []attempt {
	return append(elsewhere(map[string][]measure{
		"the same by an inherited descriptor":               {noDescriptors},
		"take an instance of inotify from the host's root":  {filter},
		"take a group of fanotify from the host's root":     {filter},
		"take bytes of message queues from the host's root": {filter},
		"use a keyring": {filter},
		"take requests of Linux' AIO from the host": {filter},
		"hold up who opens a file":                  {filter},
		"have a file count for another's quota":     {filter},
	}),
		attempt{"gain the rights of a set-user-ID program", []measure{noPrivileges}, func(t Targets) error {
			pid, err := syscall.ForkExec(t.Executable, []string{t.Executable}, &syscall.ProcAttr{})
			if err != nil {
				return err
			}
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
				return err
			}
			if status.ExitStatus() != nobody&0xff {
				return fmt.Errorf("its user is %d", status.ExitStatus())
			}
			return nil
		}})
}

// nobody is a user that is not root.
const nobody = 65534

func stageServer(t *testing.T, without map[measure]bool) scene {
	t.Helper()
	program, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	secret := made(t, filepath.Join(dir, "host", "secret"), "secret", 0o600)
	s := scene{spec: qemu.Driver{Virtiofsd: program}.ServerJail(), targets: attackable(t, dir, secret)}
	s.spec.Files = append(s.spec.Files, socket(t))
	s.targets.Given = secret
	s.targets.Executable = made(t, filepath.Join(dir, "setuid"), string(userProgram), 0o755)
	if err := os.Chown(s.targets.Executable, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.targets.Executable, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	s.switchOffCommon(t, without)
	return s
}
