package qemu

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/machine"
)

// start launches the processes of a machine. After an error none is left.
func start(programs programs, p plan) (_ vm.Machine, err error) {
	var files []*os.File // QEMU's ends, closed here once it has them
	var servers []machine.Process
	defer func() {
		for _, file := range files {
			file.Close()
		}
		if err != nil {
			for _, server := range servers {
				server.End(0)
			}
		}
	}()
	agent, qemuAgent, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("making the agent's socket: %w", err)
	}
	defer func() {
		if err != nil {
			agent.Close()
		}
	}()
	files = append(files, qemuAgent)
	p.agentFD = jail.FirstFile
	rust, err := probeVirtiofsd(programs.virtiofsd)
	if err != nil {
		return nil, err
	}
	for _, share := range p.config.Shares {
		server, socket, err := serve(p.config, programs.virtiofsd, share, rust)
		if err != nil {
			return nil, fmt.Errorf("starting virtiofsd for %s: %w", share.Tag, err)
		}
		servers = append(servers, server)
		p.shareFD = append(p.shareFD, jail.FirstFile+len(files))
		files = append(files, socket)
	}
	taps, err := openTaps(p.config.Network)
	files = append(files, taps...)
	if err != nil {
		return nil, err
	}
	for i := range taps {
		p.tapFD = append(p.tapFD, jail.FirstFile+len(files)-len(taps)+i)
	}
	if p.accel == accelKVM {
		// Where the kernel has none, QEMU copies the packets itself.
		for range taps {
			if vhost, err := openVhost(vhostDevice); err == nil {
				p.vhostFD = append(p.vhostFD, jail.FirstFile+len(files))
				files = append(files, vhost)
			}
		}
	}
	process, err := jail.Start(p.jail(programs.qemu, files, exists))
	if err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	return machine.Run(machine.Parts{
		VMM:     machine.Process{Process: process, Console: p.config.Console, Name: programs.qemu},
		Servers: servers,
		Connect: func(<-chan struct{}) (net.Conn, error) { return agent, nil },
	}), nil
}

// serve starts the file server of a share and returns the connected socket for
// QEMU. The listener's name exists only for the moment of the connect.
func serve(config vm.Config, virtiofsd string, share vm.Share, rust bool) (_ machine.Process, _ *os.File, err error) {
	dir, err := os.MkdirTemp("", "msb-")
	if err != nil {
		return machine.Process{}, nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return machine.Process{}, nil, err
	}
	defer listener.Close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return machine.Process{}, nil, err
	}
	defer conn.Close()
	listening, err := listener.File()
	if err != nil {
		return machine.Process{}, nil, err
	}
	defer listening.Close()
	connected, err := conn.File()
	if err != nil {
		return machine.Process{}, nil, err
	}
	console := config.Console.Beside(share.Tag)
	spec := serverJail(virtiofsd)
	spec.Args, spec.Files, spec.Output = virtiofsdArgs(share, jail.FirstFile, rust), []*os.File{listening}, serverConsole{console}
	server, err := jail.Start(spec)
	if err != nil {
		connected.Close()
		return machine.Process{}, nil, err
	}
	return machine.Process{Process: server, Console: console, Name: virtiofsd}, connected, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serverConsole is where a file server's output goes. Each says, when QEMU has
// left it, that QEMU has: that is not passed on.
type serverConsole struct{ *vm.Console }

func (c serverConsole) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("virtio_loop: Unexpected poll revents")) {
		return len(p), nil
	}
	return c.Console.Write(p)
}

func probeVirtiofsd(path string) (rust bool, err error) {
	help, err := exec.Command(path, "--help").CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("running %s --help: %w: install the libraries that it misses, or set qemu.virtiofsd to another: %s", path, err, bytes.TrimSpace(help))
	}
	return isRust(string(help)), nil
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
