package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// The shim, or its VMM, is killed: nothing is left in the namespace.
func TestNetworkAfterKill(t *testing.T) {
	nothingLeft(t)
	lan := host.NewLAN(t)
	port := lan.Port("a")
	port.Plug("eth0", 1500, "10.99.0.2/24", "fd99::2/64")
	before := port.Links()
	for _, victim := range []string{"shim", "VMM"} {
		c := networked(t, port)
		if links := strings.Join(port.Links(), " "); !strings.Contains(links, "eth0+ingress") || !strings.Contains(links, "msbtap0+ingress") {
			t.Errorf("the namespace of a running container has %s", links)
		}
		pid := shimOf(t, c.ID())
		if victim == "VMM" {
			pid = findVMM(pid)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ended(t, c.exit)
		_, _ = c.Delete(c.ctx, client.WithProcessKill)
		waitFor(t, "the namespace to be as before", func() bool { return slices.Equal(port.Links(), before) })
	}
}

// Without a namespace of its own a container has the host's network, through the
// VMM.
func TestHostNetwork(t *testing.T) {
	nothingLeft(t)
	host.NewLAN(t)
	echoes(t, harness.BridgeAddress)
	c := networked(t, nil, oci.WithHostNamespace(specs.NetworkNamespace))
	for _, network := range []string{"tcp", "udp"} {
		if got := c.probe(fmt.Sprintf("connect %s:%s:%s hello", network, harness.BridgeAddress, echoPort)); got != "hello" {
			t.Errorf("%s: %s", network, got)
		}
	}
	if got := c.probe("pump tcp:10.99.0.1:7 20 100000"); got != "ok" {
		t.Errorf("20 connections: %s", got)
	}
	interrupted(c)
}

// interrupted sends a stream to the host, where it is read slowly and little of it is kept, so
// that the VMM waits in its sends, while signals interrupt its threads: a send that one ends after
// a part must be gone on with.
func interrupted(c contract) {
	c.t.Helper()
	const size = 1 << 20
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		c.t.Fatal(err)
	}
	var listener net.Listener
	err := host.InNetwork(func() (err error) {
		listener, err = keepsLittle.Listen(c.ctx, "tcp", net.JoinHostPort(harness.BridgeAddress, "9"))
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	defer listener.Close()
	received := make(chan []byte, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var all bytes.Buffer
		for part := int64(16 << 10); ; time.Sleep(time.Millisecond) {
			if _, err := io.CopyN(&all, conn, part); err != nil {
				received <- all.Bytes()
				return
			}
		}
	}()
	signalled, stop := make(chan struct{}), make(chan struct{})
	vmm := c.vmm()
	go func() {
		defer close(signalled)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				// Go, which msb-krun is written in, and QEMU ignore it in what is not theirs.
				threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", vmm))
				for _, thread := range threads {
					// A processor's thread sends nothing, and would leave its guest for each.
					name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/comm", vmm, thread.Name()))
					if strings.HasPrefix(string(name), "fc_vcpu") {
						continue
					}
					if tid, err := strconv.Atoi(thread.Name()); err == nil {
						_ = unix.Tgkill(vmm, tid, unix.SIGURG)
					}
				}
			}
		}
	}()
	process, exit := c.startExec(cio.NewCreator(cio.WithStreams(bytes.NewReader(data), io.Discard, io.Discard)), nil,
		"/probe/probe", "pour", "tcp:"+net.JoinHostPort(harness.BridgeAddress, "9"))
	if err := process.CloseIO(c.ctx, client.WithStdinCloser); err != nil {
		c.t.Error(err)
	}
	await(c.t, exit)
	if _, err := process.Delete(c.ctx); err != nil {
		c.t.Error(err)
	}
	close(stop)
	<-signalled
	select {
	case got := <-received:
		if !bytes.Equal(got, data) {
			c.t.Errorf("%d of %d bytes came, or others", len(got), size)
		}
	case <-c.ctx.Done():
		c.t.Error("the stream did not end")
	}
}

// keepsLittle makes listeners whose connections hold a few KiB that nobody has read yet, and whose
// peers keep some more: how much a sender keeps is by the size of its segments, which are 64 KiB
// within a host, and so it would be megabytes.
var keepsLittle = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
	var buffer, segment error
	err := c.Control(func(fd uintptr) {
		buffer = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		segment = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536)
	})
	return errors.Join(err, buffer, segment)
}}

// What is not supported is refused, and nothing is left.
func TestNetworkRefused(t *testing.T) {
	nothingLeft(t)
	lan := host.NewLAN(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	many, shared := lan.Port("many"), lan.Port("shared")
	for i := range 32 {
		many.Wire(fmt.Sprintf("eth%d", i), 1500, fmt.Sprintf("10.90.%d.1/24", i), fmt.Sprintf("10.90.%d.2/24", i))
	}
	shared.Plug("eth0", 1500, "10.99.0.2/24", "fd99::2/64")
	networked(t, shared)
	for name, c := range map[string]struct{ path, says string }{
		"no such path":    {"/run/netns/msb-none", "/run/netns/msb-none"},
		"a file":          {file, "not a network namespace"},
		"a PID namespace": {"/proc/self/ns/pid", "not a network namespace"},
		"32 interfaces":   {many.Path, "has 32 interfaces, and this microVM has devices for 3"},
		"another VM's":    {shared.Path, "another microVM's"},
	} {
		t.Run(name, func(t *testing.T) {
			before := host.Leftovers()
			_, stderr, code := host.Run("refused", []string{"--with-ns", "network:" + c.path}, "true")
			if code == 0 || !strings.Contains(stderr, c.says) {
				t.Errorf("code %d: %s", code, stderr)
			}
			if left := host.New(before); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	if links := many.Links(); len(links) != 33 {
		t.Errorf("left in the namespace: %v", links)
	}
}
