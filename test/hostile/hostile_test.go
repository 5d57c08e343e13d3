// Package hostile runs an intruder's program in the place of each process of a VM that
// works for the guest: who owns the guest owns its VMM, and may own what that talks to,
// so the jails must hold against these processes themselves. Every measure is switched
// off once, to see that it is the one that holds.
//
// The places are that of msb-krun (this file), msb-shield, QEMU and virtiofsd. The last
// two confine themselves further (qemu(1), -sandbox; virtiofsd(1)): what is tried there is
// what is ours.
package hostile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
)

// A measure is one part of the confinement.
type measure string

const (
	ownRoot         measure = "own root"
	ownNamespaces   measure = "own namespaces"
	fewCapabilities measure = "few capabilities"
	filter          measure = "system call filter"
	noDescriptors   measure = "no inherited descriptors"
	lowLimits       measure = "resource limits"
	readOnlyTree    measure = "read-only trees"
	readOnlyShare   measure = "read-only share"
	readOnlyImage   measure = "read-only disk"
	noDevices       measure = "nodev"
	noPrivileges    measure = "no_new_privs"
	noKernel        measure = "no file systems of the kernel in shares"
)

// A place is a process of a VM that the intruder has taken over.
type place struct {
	name string
	// cooperates says that the process enters its jail by itself (entry.Enter).
	cooperates bool
	// serves says that it is a file server, which acts as the guest's users.
	serves   bool
	attempts []attempt
	// stage makes a sandbox and a host, without some of the measures.
	stage func(t *testing.T, without map[measure]bool) scene
}

var (
	vmm        = &place{"msb-krun", true, true, vmmAttempts, stageVMM}
	shielding  = &place{"msb-shield", true, false, shieldAttempts(), stageShield}
	qemuVMM    = &place{"QEMU", false, false, qemuAttempts(), stageQEMU}
	fileServer = &place{"virtiofsd", false, true, serverAttempts(), stageServer}

	places = []*place{vmm, shielding, qemuVMM, fileServer, hidden}
)

func TestFM50FM54Intruder(t *testing.T) { intrude(t, vmm) }

// intrude tries all attempts of a place, and then each of them without the measures that
// stop it.
func intrude(t *testing.T, p *place) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	t.Run("all measures on", func(t *testing.T) {
		outcomes := attack(t, p, nil, 0)
		table := new(strings.Builder)
		w := tabwriter.NewWriter(table, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ATTEMPT\tSTOPPED BY\tANSWER")
		for i, outcome := range outcomes {
			fmt.Fprintf(w, "%s\t%s\t%s\n", outcome.Attempt, join(p.attempts[i].measures), cmp.Or(outcome.Refused, "SUCCEEDED"))
			if outcome.Refused == "" {
				t.Errorf("%s: succeeded", outcome.Attempt)
			}
		}
		w.Flush()
		t.Logf("in the place of %s\n%s", p.name, table)
	})
	if p.serves {
		// It keeps its capabilities then (jail.Spec.NoSetuidFixup), which is no more than
		// it has.
		t.Run("all measures on, as a user", func(t *testing.T) {
			for _, outcome := range attack(t, p, nil, nobody-1) {
				if outcome.Refused == "" {
					t.Errorf("%s: succeeded", outcome.Attempt)
				}
			}
		})
	}
	tried := make(map[string]bool)
	for _, each := range p.attempts {
		off := each.measures
		if tried[join(off)] {
			continue
		}
		tried[join(off)] = true
		t.Run("without "+join(off), func(t *testing.T) {
			for _, outcome := range attack(t, p, off, 0) {
				if outcome.Refused != "" {
					t.Errorf("%s: still refused, so something else stops it, or the attack is none: %s", outcome.Attempt, outcome.Refused)
				}
			}
		})
	}
}

func join(measures []measure) string {
	words := make([]string, len(measures))
	for i, m := range measures {
		words[i] = string(m)
	}
	return strings.Join(words, ", ")
}

// attack runs the payload in the jail of a place, some measures switched off. Then it
// makes those attempts only that these measures stop: the others would be at the host. It
// becomes a user before, unless that is 0.
func attack(t *testing.T, p *place, off []measure, user int) []Outcome {
	t.Helper()
	without := make(map[measure]bool)
	for _, m := range off {
		without[m] = true
	}
	s := p.stage(t, without)
	var output bytes.Buffer
	spec := s.spec
	spec.Output, spec.Args = &output, []string{payloadArgument}
	s.targets.Place, s.targets.Off, s.targets.User = p.name, off, user
	var err error
	if spec.Input, err = json.Marshal(s.targets); err != nil {
		t.Fatal(err)
	}
	process, err := jail.Start(spec)
	if err != nil {
		t.Fatalf("starting the payload: %v\n%s", err, output.String())
	}
	select {
	case <-process.Exited():
	case <-time.After(time.Minute):
		process.Kill()
		t.Fatal("the payload does not end")
	}
	var outcomes []Outcome
	if err := json.Unmarshal(output.Bytes(), &outcomes); err != nil {
		t.Fatalf("the payload said %q (%v): %v", output.String(), process.State(), err)
	}
	return outcomes
}

// scene is a sandbox as the shim makes one, and a host to attack.
type scene struct {
	spec    jail.Spec
	targets Targets
}

// self is this test's program.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// made makes a file, and the directory that it is in.
func made(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// machineOf is a machine below a directory that is served two trees, and the agent's socket of it.
func machineOf(t *testing.T, dir, pool, files string) vm.Config {
	t.Helper()
	config := vm.Config{
		Kernel: made(t, filepath.Join(dir, "kit/vmlinux"), "kernel", 0o644), Disk: made(t, filepath.Join(dir, "kit/guest.erofs"), "disk", 0o644),
		Shares: []vm.Share{{Tag: "pool", Dir: pool}, {Tag: "files", Dir: files}},
		Dir:    filepath.Join(dir, "vm"),
	}
	if err := os.Mkdir(config.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	agent, err := net.Listen("unix", filepath.Join(config.Dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	return config
}

// shortDir is a temporary directory of the test's. That of t.TempDir has the test's long name, and
// the path of a socket in it has no room for a longer TMPDIR.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func stageVMM(t *testing.T, without map[measure]bool) scene {
	t.Helper()
	dir := shortDir(t)
	made := func(path, content string, mode os.FileMode) string {
		return made(t, filepath.Join(dir, path), content, mode)
	}
	secret := made("host/secret", "secret", 0o600)
	made("share/program", string(exitProgram), 0o755)
	trees, other := open(t, filepath.Join(dir, "mine")), open(t, filepath.Join(dir, "other"))
	procfs(t, filepath.Join(dir, "share", "proc"))
	directory := add(t, trees, filepath.Join(dir, "share"), share.Attributes{Recursive: true})
	if without[noKernel] {
		procfs(t, filepath.Join(dir, "mine", "pool", directory.Tag, "proc"))
	}
	readOnly := add(t, trees, made("conf/ro", "ro", 0o600), share.Attributes{ReadOnly: !without[readOnlyShare]})
	foreign := add(t, other, made("conf/foreign", "x", 0o600), share.Attributes{})

	files := trees.Files()
	if without[readOnlyTree] {
		files = filepath.Join(dir, "mine", "files")
	}
	container, err := network.Open(mountns.Namespace{}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := container.Close(); err != nil {
			t.Error(err)
		}
	})
	config := machineOf(t, dir, trees.Pool(), files)
	config.Network = container.VM()
	s := scene{spec: krun.Driver{Program: self(t)}.Jail(config), targets: attackable(t, dir, secret)}
	s.targets.Other = filepath.Join(dir, "other", "files", foreign.Tag, "foreign")
	s.targets.Writable = filepath.Join("/shares/pool", directory.Tag)
	s.targets.Node = s.targets.Writable
	s.targets.Root = filepath.Join(s.targets.Writable, "proc", strconv.Itoa(unprivileged(t)), "root")
	s.targets.Executable = filepath.Join(s.targets.Writable, "program")
	s.targets.Staging = filepath.Join("/shares/files", readOnly.Tag)
	s.targets.ReadOnly = filepath.Join(s.targets.Staging, "ro")
	s.targets.Image, s.targets.Given = "/guest.erofs", s.targets.ReadOnly
	s.switchOff(t, dir, without)
	return s
}

// procfs mounts the host's processes.
func procfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", dir, "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// unprivileged starts a process of the host's root that has no capabilities, as many
// daemons: those with as few as itself a VMM may look into (ptrace(2)).
func unprivileged(t *testing.T) int {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	process, err := jail.Start(jail.Spec{Program: sleep, Args: []string{"300"}, Capabilities: []uintptr{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Kill(); <-process.Exited() })
	return process.Pid()
}

// switchOff takes measures away.
func (s *scene) switchOff(t *testing.T, dir string, without map[measure]bool) {
	t.Helper()
	s.switchOffCommon(t, without)
	if without[ownRoot] {
		s.targets.Writable = filepath.Join(dir, "share")
	}
	if without[readOnlyImage] {
		s.writableBinds()
	}
	if without[noDevices] {
		s.spec.Root.Binds = append(s.spec.Root.Binds, jail.Bind{Source: filepath.Join(dir, "share"), Target: "/nodes", Device: true})
		s.targets.Node = "/nodes"
	}
}

// switchOffCommon takes those away that all jails have.
func (s *scene) switchOffCommon(t *testing.T, without map[measure]bool) {
	t.Helper()
	for m := range without {
		switch m {
		case ownRoot:
			s.spec.Root = nil
		case ownNamespaces:
			s.spec.Namespaces, s.spec.Network = 0, nil
		case fewCapabilities:
			s.spec.Capabilities = nil
		case filter:
			s.spec.Filter = false
		case lowLimits:
			s.spec.Limits = nil
		case noPrivileges:
			s.spec.NoNewPrivileges = false
		case noDescriptors:
			s.inherit(t, filepath.Dir(s.targets.Secret))
		}
	}
}

// inherit gives the process a directory of the host.
func (s *scene) inherit(t *testing.T, dir string) {
	t.Helper()
	host, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	s.spec.Files = append(s.spec.Files, host)
}

// writableBinds makes what the process sees of the host writable.
func (s *scene) writableBinds() {
	for i := range s.spec.Root.Binds {
		s.spec.Root.Binds[i].ReadOnly = false
	}
}

// attackable puts on the host what there is to attack beside files.
func attackable(t *testing.T, dir, secret string) Targets {
	t.Helper()
	targets := Targets{Secret: secret, Abstract: fmt.Sprintf("@msb-hostile-%d", os.Getpid()), Socket: filepath.Join(dir, "host", "socket")}
	victim := exec.Command("sleep", "300")
	victim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	targets.Victim = victim.Process.Pid
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", targets.Victim))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(maps), "%x-", &targets.Memory); err != nil {
		t.Fatal(err)
	}
	// In a container, process 1 may be somebody else's.
	targets.Init = 1
	if _, err := os.Stat("/proc/1/root/"); err != nil {
		targets.Init = targets.Victim
	}
	for _, address := range []string{targets.Abstract, targets.Socket} {
		listener, err := net.Listen("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	targets.Port = listener.Addr().(*net.TCPAddr).Port
	targets.SharedKey = 0x6d7362 + os.Getpid()
	segment, err := unix.SysvShmGet(targets.SharedKey, 4096, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.SysvShmCtl(segment, unix.IPC_RMID, nil) })
	return targets
}

func open(t *testing.T, dir string) *share.Trees {
	t.Helper()
	return openWith(t, dir, nil)
}

func openWith(t *testing.T, dir string, shield share.Shield) *share.Trees {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	trees, err := share.Open(dir, mountns.Namespace{}, shield)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trees.Close(); err != nil {
			t.Error(err)
		}
	})
	return trees
}

func add(t *testing.T, trees *share.Trees, path string, attributes share.Attributes) share.Share {
	t.Helper()
	source, err := share.OpenSource(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	added, err := trees.Add(source, attributes)
	if err != nil {
		t.Fatal(err)
	}
	return added
}
