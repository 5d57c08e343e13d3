// Package unmount takes away what is mounted at a path, on the host and in the guest.
package unmount

import (
	"os"

	"golang.org/x/sys/unix"
)

// Path is umount2(2); that nothing is mounted there is no error. What is busy goes when it is not any
// more. A symbolic link is not followed.
func Path(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return nil
}
