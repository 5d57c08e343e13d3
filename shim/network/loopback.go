package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// MaxForwarded is how many connections are open at a time. Each costs the shim at
// most mux.Window and api.JoinBuffer, beside mux.LargeStreams.
const MaxForwarded = 128

// A Loopback takes the TCP connections to loopback addresses of the host's network
// namespace, as "kubectl port-forward" makes them by the CRI plugin, to those of the
// guest: whatever the port. The kernel asks a program which socket a connection is for
// (Documentation/bpf/prog_sk_lookup.rst), and it names one of two listeners. It goes
// with the process, however that ends.
type Loopback struct {
	listeners [2]*net.TCPListener // of IPv4 and IPv6
	closers   []func() error
	dial      func(context.Context, uint32) (net.Conn, error)
	slots     chan struct{}
}

// OpenLoopback starts it in a namespace. dial opens a stream to a port of the guest.
func OpenLoopback(namespace *os.File, dial func(context.Context, uint32) (net.Conn, error)) (_ *Loopback, err error) {
	l := &Loopback{dial: dial, slots: make(chan struct{}, MaxForwarded)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("taking connections to loopback to the guest: %w", err), l.Close())
		}
	}()
	if err := thread.InNetwork(namespace, l.listen); err != nil {
		return nil, err
	}
	if err := l.attach(namespace); err != nil {
		return nil, err
	}
	for _, listener := range l.listeners {
		if listener != nil {
			go l.serve(listener)
		}
	}
	return l, nil
}

// listen makes the listeners; a namespace may be without IPv6.
func (l *Loopback) listen() error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // such sockets do not go into a map
	for i, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := config.Listen(context.Background(), "tcp", address)
		if i > 0 && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		l.listeners[i] = listener.(*net.TCPListener)
		l.closers = append(l.closers, listener.Close)
	}
	return nil
}

// Offsets of fields in struct bpf_sk_lookup (linux/bpf.h).
const (
	lookupFamily     = 8
	lookupProtocol   = 12
	lookupRemotePort = 36 // in the network's order of bytes
)

// attach loads the program and attaches it to the namespace.
func (l *Loopback) attach(namespace *os.File) error {
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Name: "msb_loopback", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		return err
	}
	defer sockets.Close() // the program holds it
	for i, listener := range l.listeners {
		if listener == nil {
			continue
		}
		if err := addSocket(sockets, uint32(i), listener); err != nil {
			return err
		}
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "msb_loopback", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0",
		Instructions: lookup(sockets.FD()),
	})
	if err != nil {
		return err
	}
	defer program.Close() // the link holds it
	attached, err := ebpflink.AttachNetNs(int(namespace.Fd()), program)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, attached.Close)
	return nil
}

func addSocket(sockets *ebpf.Map, key uint32, listener *net.TCPListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var putErr error
	err = raw.Control(func(fd uintptr) { putErr = sockets.Put(key, uint64(fd)) })
	return errors.Join(err, putErr)
}

// lookup gives every TCP connection the listener of its family, but for those of DialPast.
// Only what goes to an address of the host's side gets as far as that: the guest's packets
// are redirected before.
func lookup(sockets int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, lookupProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupRemotePort, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.JLT.Imm(asm.R2, firstOwnPort, "take"),
		asm.JLT.Imm(asm.R2, endOwnPort, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupFamily, asm.Word).WithSymbol("take"),
		asm.Mov.Imm(asm.R3, 0),
		asm.JEq.Imm(asm.R2, unix.AF_INET, "find"),
		asm.Mov.Imm(asm.R3, 1),
		asm.StoreMem(asm.RFP, -4, asm.R3, asm.Word).WithSymbol("find"),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // SK_PASS
		asm.Return(),
	}
}

func (l *Loopback) serve(listener *net.TCPListener) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		go l.forward(conn)
	}
}

// forward joins a connection with the guest's port of the same number.
func (l *Loopback) forward(conn *net.TCPConn) {
	defer conn.Close()
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		_ = conn.SetLinger(0) // closes it by a reset, as a refusal
		return
	}
	port := conn.LocalAddr().(*net.TCPAddr).Port
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := l.dial(ctx, uint32(port))
	if err != nil {
		log.L.WithError(err).Debugf("a connection to port %d of the guest", port)
		_ = conn.SetLinger(0)
		return
	}
	defer stream.Close()
	api.Join(conn, stream)
}

// Close ends it; connections live on until one side ends them.
func (l *Loopback) Close() error {
	var errs []error
	for _, closer := range l.closers {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}
