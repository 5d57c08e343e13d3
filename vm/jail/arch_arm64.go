package jail

import "golang.org/x/sys/unix"

const nativeArch = unix.AUDIT_ARCH_AARCH64

// inotify are the system calls that make an instance of inotify(7).
var inotify = []uint32{unix.SYS_INOTIFY_INIT1}
