// Package transport is the guest's end of the byte streams from the host.
package transport

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

const (
	ports = "/sys/class/virtio-ports"
	// wait bounds how long the port may take to appear after boot, and the host to open it:
	// long, because the host may be busy, and has a limit of its own for all of the boot.
	wait = 30 * time.Second
)

// Listen returns the session on which the host's streams arrive. It is the only
// one that a guest makes. A machine has a vsock device or the port. The connection is
// passed through wrap before anything is sent.
func Listen(wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (*mux.Session, error) {
	conn, err := vsock.Dial(vsock.Host, mux.VsockPort, nil)
	switch {
	case err == nil:
		return mux.Guest(wrap(conn)), nil
	case errors.Is(err, unix.ENODEV):
		return listenPort(wrap)
	}
	return nil, fmt.Errorf("connecting to the host's vsock port %d: %w", mux.VsockPort, err)
}

func listenPort(wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (*mux.Session, error) {
	device, err := findPort()
	if err != nil {
		return nil, err
	}
	port, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := awaitHost(port); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	return mux.Guest(wrap(port)), nil
}

// awaitHost waits until the driver has learned that the host's end of the port is open. The
// VMM says so after it has told the name, and on a busy host a good while after. Until then
// a read says that the host has gone, and poll that it has hung up (Linux,
// drivers/char/virtio_console.c).
func awaitHost(port *os.File) error {
	raw, err := port.SyscallConn()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		var hungUp bool
		var pollErr error
		err := raw.Control(func(fd uintptr) { hungUp, pollErr = hasHungUp(int(fd)) })
		if err := errors.Join(err, pollErr); err != nil {
			return fmt.Errorf("waiting for the host at %s: %w", port.Name(), err)
		}
		if !hungUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the host has not opened its end of %s", port.Name())
		}
	}
}

func hasHungUp(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := rawcall.Retry(func() (int, error) { return unix.Poll(fds, 0) })
	return fds[0].Revents&unix.POLLHUP != 0, err
}

// findPort looks for the virtio-serial port by the name that the VMM gave it;
// the driver fills in the name a moment after the device appears.
func findPort() (string, error) {
	for deadline := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		names, err := filepath.Glob(filepath.Join(ports, "*", "name"))
		if err != nil {
			return "", err
		}
		for _, file := range names {
			if name, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(name)) == mux.Port {
				return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no virtio-serial port named %s in %s", mux.Port, ports)
		}
	}
}
