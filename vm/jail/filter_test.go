package jail

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a filter answers (seccomp(2)).
const (
	allow  = uint32(seccomp.ActionAllow)
	kill   = uint32(seccomp.ActionKillProcess)
	eperm  = uint32(seccomp.ActionErrno) | uint32(unix.EPERM)
	enosys = uint32(seccomp.ActionErrno) | uint32(unix.ENOSYS)
)

// The filter, run as the kernel would, for one call.
func TestFilter(t *testing.T) {
	machines := make(map[kind]*bpf.VM)
	for _, k := range []kind{ordinary, internet, dataOnly} {
		p := policy(k)
		instructions, err := p.Assemble()
		if err != nil {
			t.Fatal(err)
		}
		if machines[k], err = bpf.NewVM(append(prelude(), instructions...)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		arch, number uint32
		arguments    [6]uint64
		want         uint32
	}{
		"read":                  {nativeArch, unix.SYS_READ, [6]uint64{}, allow},
		"ioctl of KVM":          {nativeArch, unix.SYS_IOCTL, [6]uint64{3, 0xae80}, allow},
		"ioctl TIOCSTI":         {nativeArch, unix.SYS_IOCTL, [6]uint64{3, unix.TIOCSTI}, eperm},
		"a thread":              {nativeArch, unix.SYS_CLONE, [6]uint64{unix.CLONE_THREAD | unix.CLONE_VM}, allow},
		"a process":             {nativeArch, unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}, eperm},
		"a process, flags high": {nativeArch, unix.SYS_CLONE, [6]uint64{1 << 40}, eperm},
		"a thread elsewhere":    {nativeArch, unix.SYS_CLONE, [6]uint64{unix.CLONE_THREAD | unix.CLONE_VM | unix.CLONE_NEWNET}, eperm},
		"TIOCSTI, high bits":    {nativeArch, unix.SYS_IOCTL, [6]uint64{3, 1<<32 | unix.TIOCSTI}, eperm},
		"clone3":                {nativeArch, unix.SYS_CLONE3, [6]uint64{}, enosys},
		"a unix socket":         {nativeArch, unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX}, allow},
		"an inet socket":        {nativeArch, unix.SYS_SOCKET, [6]uint64{unix.AF_INET}, eperm},
		"an inet6 socket":       {nativeArch, unix.SYS_SOCKET, [6]uint64{unix.AF_INET6}, eperm},
		"a packet socket":       {nativeArch, unix.SYS_SOCKET, [6]uint64{unix.AF_PACKET}, eperm},
		"mount":                 {nativeArch, unix.SYS_MOUNT, [6]uint64{}, eperm},
		"execve":                {nativeArch, unix.SYS_EXECVE, [6]uint64{}, eperm},
		"ptrace":                {nativeArch, unix.SYS_PTRACE, [6]uint64{}, eperm},
		"bpf":                   {nativeArch, unix.SYS_BPF, [6]uint64{}, eperm},
		"quotactl_fd":           {nativeArch, unix.SYS_QUOTACTL_FD, [6]uint64{}, eperm},
		"open_tree_attr":        {nativeArch, unix.SYS_OPEN_TREE_ATTR, [6]uint64{}, eperm},
		"listmount":             {nativeArch, unix.SYS_LISTMOUNT, [6]uint64{}, eperm},
		"one of tomorrow":       {nativeArch, firstUnknown, [6]uint64{}, enosys},
		"kexec_load":            {nativeArch, unix.SYS_KEXEC_LOAD, [6]uint64{}, eperm},
		"init_module":           {nativeArch, unix.SYS_INIT_MODULE, [6]uint64{}, eperm},
		"keyctl":                {nativeArch, unix.SYS_KEYCTL, [6]uint64{}, eperm},
		"userfaultfd":           {nativeArch, unix.SYS_USERFAULTFD, [6]uint64{}, eperm},
		"io_uring_setup":        {nativeArch, unix.SYS_IO_URING_SETUP, [6]uint64{}, eperm},
		"setns":                 {nativeArch, unix.SYS_SETNS, [6]uint64{}, eperm},
		"another architecture":  {unix.AUDIT_ARCH_I386, unix.SYS_READ, [6]uint64{}, kill},
		"x32":                   {nativeArch, 0x40000000 | unix.SYS_READ, [6]uint64{}, enosys},
	} {
		for k, machine := range machines {
			want := c.want
			if k == internet && (name == "an inet socket" || name == "an inet6 socket") {
				want = allow
			}
			if k == dataOnly && name == "ioctl of KVM" {
				want = eperm
			}
			if got, err := machine.Run(call(c.arch, c.number, c.arguments)); uint32(got) != want || err != nil {
				t.Errorf("%s, filter %d: %#x, %v, want %#x", name, k, got, err, want)
			}
		}
	}
	for name, c := range map[string]struct {
		number    uint32
		arguments [6]uint64
		want      uint32
	}{
		"open":                     {unix.SYS_OPENAT, [6]uint64{}, allow},
		"ftruncate":                {unix.SYS_FTRUNCATE, [6]uint64{}, allow},
		"fgetxattr":                {unix.SYS_FGETXATTR, [6]uint64{}, allow},
		"fchmod":                   {unix.SYS_FCHMOD, [6]uint64{}, eperm},
		"fchmodat2":                {unix.SYS_FCHMODAT2, [6]uint64{}, eperm},
		"fchownat":                 {unix.SYS_FCHOWNAT, [6]uint64{}, eperm},
		"utimensat":                {unix.SYS_UTIMENSAT, [6]uint64{}, eperm},
		"fsetxattr":                {unix.SYS_FSETXATTR, [6]uint64{}, eperm},
		"linkat":                   {unix.SYS_LINKAT, [6]uint64{}, eperm},
		"renameat":                 {unix.SYS_RENAMEAT, [6]uint64{}, eperm},
		"a backing file":           {unix.SYS_IOCTL, [6]uint64{4, fuseBackingOpen}, allow},
		"its end":                  {unix.SYS_IOCTL, [6]uint64{4, fuseBackingClose}, allow},
		"freezing a file system":   {unix.SYS_IOCTL, [6]uint64{4, 0xc0045877}, eperm},
		"the same, high bits":      {unix.SYS_IOCTL, [6]uint64{4, 1<<32 | 0xc0045877}, eperm},
		"giving memory back":       {unix.SYS_MADVISE, [6]uint64{0, 0, unix.MADV_DONTNEED}, allow},
		"poisoning memory":         {unix.SYS_MADVISE, [6]uint64{0, 0, unix.MADV_HWPOISON}, eperm},
		"poisoning it, high bits":  {unix.SYS_MADVISE, [6]uint64{0, 0, 1<<32 | unix.MADV_HWPOISON}, eperm},
		"taking memory out of use": {unix.SYS_MADVISE, [6]uint64{0, 0, poison + 1}, eperm},
	} {
		if got, err := machines[dataOnly].Run(call(nativeArch, c.number, c.arguments)); uint32(got) != c.want || err != nil {
			t.Errorf("for content only, %s: %#x, %v, want %#x", name, got, err, c.want)
		}
	}
}

// What a VM's processes may not take from the host's other processes of root, and all else they may:
// that is for others to deny.
func TestSharedPolicy(t *testing.T) {
	machine, err := bpf.NewVM(sharedPolicy())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		arch, number uint32
		second       uint64
		want         uint32
	}{
		"inotify":                {nativeArch, unix.SYS_INOTIFY_INIT1, 0, eperm},
		"fanotify":               {nativeArch, unix.SYS_FANOTIFY_INIT, 0, eperm},
		"a key":                  {nativeArch, unix.SYS_ADD_KEY, 0, eperm},
		"a key that others make": {nativeArch, unix.SYS_REQUEST_KEY, 0, eperm},
		"a keyring":              {nativeArch, unix.SYS_KEYCTL, 0, eperm},
		"a message queue":        {nativeArch, unix.SYS_MQ_OPEN, 0, eperm},
		"requests of Linux' AIO": {nativeArch, unix.SYS_IO_SETUP, 0, eperm},
		"a lease":                {nativeArch, unix.SYS_FCNTL, unix.F_SETLEASE, eperm},
		"a lease, high bits":     {nativeArch, unix.SYS_FCNTL, 1<<32 | unix.F_SETLEASE, eperm},
		"a lock":                 {nativeArch, unix.SYS_FCNTL, unix.F_SETLK, allow},
		"a project":              {nativeArch, unix.SYS_IOCTL, setProject, eperm},
		"a project, high bits":   {nativeArch, unix.SYS_IOCTL, 1<<32 | setProject, eperm},
		"ioctl of KVM":           {nativeArch, unix.SYS_IOCTL, 0xae80, allow},
		"a lease's number":       {nativeArch, unix.SYS_READ, unix.F_SETLEASE, allow},
		"read":                   {nativeArch, unix.SYS_READ, 0, allow},
		"execve":                 {nativeArch, unix.SYS_EXECVE, 0, allow},
		"one of tomorrow":        {nativeArch, firstUnknown, 0, allow},
		"x32":                    {nativeArch, 0x40000000 | unix.SYS_READ, 0, enosys},
		"another architecture":   {unix.AUDIT_ARCH_I386, unix.SYS_READ, 0, kill},
	} {
		if got, err := machine.Run(call(c.arch, c.number, [6]uint64{3, c.second})); uint32(got) != c.want || err != nil {
			t.Errorf("%s: %#x, %v, want %#x", name, got, err, c.want)
		}
	}
	for _, number := range inotify {
		if got, err := machine.Run(call(nativeArch, number, [6]uint64{})); uint32(got) != eperm || err != nil {
			t.Errorf("inotify, %d: %#x, %v", number, got, err)
		}
	}
}

// call is struct seccomp_data (seccomp(2)) as package bpf's machine reads it: a
// network packet's words are big-endian. Of each argument, which the kernel has
// in the processor's own order, the low half comes first.
func call(arch, number uint32, arguments [6]uint64) []byte {
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, arch)
	data = binary.BigEndian.AppendUint64(data, 0) // instruction_pointer
	for _, argument := range arguments {
		data = binary.BigEndian.AppendUint32(data, uint32(argument))
		data = binary.BigEndian.AppendUint32(data, uint32(argument>>32))
	}
	return data
}
