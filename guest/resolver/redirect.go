package resolver

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// redirect are programs that the kernel runs when a process connects, or sends to or
// receives from an address (struct bpf_sock_addr, linux/bpf.h): a resolver's port 53 becomes
// the agent's port, and back. There is no listener at port 53, no translation of all of
// the container's packets, and no rule among the container's own. They do nothing
// in network namespaces that a container has made, nor for the agent.
type redirect struct {
	ports *ebpf.Map // by key; a port as in sockAddrPort
	links []link.Link
}

// key is one in the map of ports.
type key struct {
	Address [16]byte // of IPv6, or of IPv4 in it
	Port    uint32   // as in sockAddrPort
	Type    uint32   // of the socket: SOCK_STREAM or SOCK_DGRAM
	Way     uint32
}

// Ways.
const (
	toAgent = iota
	fromAgent
)

// Fields of struct bpf_sock_addr, by their offsets.
const (
	sockAddrIP4  = 4
	sockAddrIP6  = 8
	sockAddrPort = 24 // in the network's order of bytes, in the first two bytes of four
	sockAddrType = 32
)

// hooks are where the programs are attached.
var hooks = []struct {
	at   ebpf.AttachType
	ipv6 bool
	way  int32
}{
	{ebpf.AttachCGroupInet4Connect, false, toAgent},
	{ebpf.AttachCGroupInet6Connect, true, toAgent},
	{ebpf.AttachCGroupUDP4Sendmsg, false, toAgent},
	{ebpf.AttachCGroupUDP6Sendmsg, true, toAgent},
	{ebpf.AttachCGroupUDP4Recvmsg, false, fromAgent},
	{ebpf.AttachCGroupUDP6Recvmsg, true, fromAgent},
	{ebpf.AttachCgroupInet4GetPeername, false, fromAgent},
	{ebpf.AttachCgroupInet6GetPeername, true, fromAgent},
}

// newRedirect attaches the programs to the control group of all containers. They end with
// the agent.
func newRedirect(namespace string) (_ *redirect, err error) {
	cookie, err := cookieOf(namespace)
	if err != nil {
		return nil, err
	}
	ports, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "msb_resolvers", Type: ebpf.Hash, KeySize: 28, ValueSize: 4, MaxEntries: 4 * api.MaxResolvers,
	})
	if err != nil {
		return nil, fmt.Errorf("leading queries to the host: %w", err)
	}
	r := &redirect{ports: ports}
	for _, hook := range hooks {
		if err := r.attach(hook.at, program(ports.FD(), cookie, hook.ipv6, hook.way)); err != nil {
			return nil, errors.Join(fmt.Errorf("leading queries to the host (%s): %w", hook.at, err), r.close())
		}
	}
	return r, nil
}

func (r *redirect) close() error {
	errs := []error{r.ports.Close()}
	for _, attached := range r.links {
		errs = append(errs, attached.Close())
	}
	return errors.Join(errs...)
}

// cookieOf is the number by which programs know a network namespace (socket(7),
// SO_NETNS_COOKIE).
func cookieOf(namespace string) (cookie uint64, err error) {
	err = thread.InNetworkAt(namespace, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}

func (r *redirect) attach(at ebpf.AttachType, instructions asm.Instructions) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "msb_resolvers", Type: ebpf.CGroupSockAddr, AttachType: at, License: "Apache-2.0", Instructions: instructions,
	})
	if err != nil {
		return err
	}
	defer program.Close() // the link holds it
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: "/sys/fs/cgroup", Attach: at, Program: program})
	if err != nil {
		return err
	}
	r.links = append(r.links, attached)
	return nil
}

// agentPid is the agent's process, in the guest's first PID namespace.
const agentPid = 1

// program replaces a port by another that the map has for it.
func program(ports int, cookie uint64, ipv6 bool, way int32) asm.Instructions {
	const at = -32 // of the key on the stack
	load := func(offset int16) asm.Instruction { return asm.LoadMem(asm.R1, asm.R6, offset, asm.Word) }
	put := func(offset int16) asm.Instruction { return asm.StoreMem(asm.RFP, at+offset, asm.R1, asm.Word) }
	instructions := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(cookie), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "pass"),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.JEq.Imm(asm.R0, agentPid, "pass"),
	}
	if ipv6 {
		for i := range int16(4) {
			instructions = append(instructions, load(sockAddrIP6+4*i), put(4*i))
		}
	} else {
		instructions = append(instructions,
			asm.Mov.Imm(asm.R1, 0), put(0), put(4), put(8),
			asm.StoreImm(asm.RFP, at+10, 0xffff, asm.Half), // RFC 4291, 2.5.5.2
			load(sockAddrIP4), put(12))
	}
	return append(instructions,
		load(sockAddrPort), put(16),
		load(sockAddrType), put(20),
		asm.Mov.Imm(asm.R1, way), put(24),
		asm.LoadMapPtr(asm.R1, ports),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, at),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.StoreMem(asm.R6, sockAddrPort, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // go on
		asm.Return(),
	)
}

// entry is a key with the port that replaces its own.
type entry struct {
	key  key
	port uint32
}

// entries are those of a resolver, for both kinds of sockets and both ways.
func (r *resolver) entries() (all []entry) {
	for kind, own := range map[uint32]uint16{
		unix.SOCK_DGRAM:  r.packets.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port(),
		unix.SOCK_STREAM: r.connections.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port(),
	} {
		resolvers, agents := inNetworkOrder(port), inNetworkOrder(own)
		all = append(all,
			entry{key{r.address.As16(), resolvers, kind, toAgent}, agents},
			entry{key{r.address.As16(), agents, kind, fromAgent}, resolvers})
	}
	return all
}

// inNetworkOrder is a port as in sockAddrPort: the machines that there are put the first
// byte first.
func inNetworkOrder(port uint16) uint32 { return uint32(port>>8 | port<<8) }

func (r *redirect) add(added *resolver) error {
	for _, entry := range added.entries() {
		if err := r.ports.Put(entry.key, entry.port); err != nil {
			return fmt.Errorf("leading queries to the host: %w", err)
		}
	}
	return nil
}

func (r *redirect) remove(removed *resolver) error {
	var errs []error
	for _, entry := range removed.entries() {
		errs = append(errs, r.ports.Delete(entry.key))
	}
	return errors.Join(errs...)
}
