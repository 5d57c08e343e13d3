// Package contract is the contract of a mount (docs/file-mounts.md), and the table
// of its lines that a test run makes: each test carries the lines it shows in its
// name.
package contract

// line is one line of the contract. FM is about mounted files, DM about mounted
// directories.
type line struct {
	name, meaning string
	// open says why no test shows the line; the table has it instead of results.
	open string
	// by is who decides the line, host or guest, if the VMM has no part in it: one driver
	// shows it, and the table has this under the others.
	by string
}

var lines = []line{
	{name: "FM01", meaning: "read-only: the host's bytes"},
	{name: "FM02", meaning: "a write in the guest is on the host"},
	{name: "FM03", meaning: "a write on the host is seen in the guest within 5 s"},
	{name: "FM04", meaning: "also when the length stays the same"},
	{name: "FM05", meaning: "truncated on one side, short on the other"},
	{name: "FM06", meaning: "parallel appends of a guest lose nothing"},
	{name: "FM07", meaning: "a shared mapping, synced, is on the host"},
	{name: "FM08", meaning: "O_DIRECT works, or is EINVAL"},
	{name: "FM09", meaning: "locks exclude processes of one guest"},
	{name: "FM10", meaning: "rename over the target: EBUSY"},
	{name: "FM11", meaning: "unlink of the target: EBUSY"},
	{name: "FM12", meaning: "renamed over on the host: old content; with follow the new at the next open"},
	{name: "FM13", meaning: "unlinked on the host: descriptors and the path work on"},
	{name: "FM14", meaning: "sed -i: EBUSY, the file intact"},
	{name: "FM15", meaning: "an empty file"},
	{name: "FM16", meaning: "a sparse file of 10 GiB: not copied, holes stay"},
	{name: "FM17", meaning: "fallocate, punched holes"},
	{name: "FM18", meaning: "size, mtime, inode number are stable"},
	{name: "FM20", meaning: "an executable file runs; with noexec EACCES"},
	{name: "FM21", meaning: "nosuid: set-user-ID is ignored"},
	{name: "FM22", meaning: "read-only: every change is EROFS"},
	{name: "FM23", meaning: "also after remount,rw as root"},
	{name: "FM24", meaning: "also when the guest's root mounts the device again"},
	{name: "FM25", meaning: "one source ro and rw: each as it was asked"},
	{name: "FM26", meaning: "a missing target is made, with its parents"},
	{name: "FM27", meaning: "the target is a directory: refused"},
	{name: "FM28", meaning: "the target is a symbolic link: nothing outside the root is touched"},
	{name: "FM29", meaning: "a file below a mounted directory: the siblings stay"},
	{name: "FM30", meaning: "two files of one directory"},
	{name: "FM31", meaning: "one name of two directories"},
	{name: "FM32", meaning: "one source at two targets"},
	{name: "FM33", meaning: "one target twice: the later wins"},
	{name: "FM34", meaning: "the source is a symbolic link: the real file"},
	{name: "FM35", meaning: "names with any byte, and of 255"},
	{name: "FM36", meaning: "a missing target in a read-only root: refused, named"},
	{name: "FM37", meaning: "a relative source is the bundle's"},
	{name: "FM38", meaning: "a missing source: refused"},
	{name: "FM39", meaning: "a FIFO: refused"},
	{name: "FM40", meaning: "a socket is forwarded; one for datagrams refused"},
	{name: "FM41", meaning: "a block or character device: refused"},
	{name: "FM42", meaning: "a source that may not be read: EACCES, named"},
	{name: "FM43", meaning: "another file system, another mount of one: works"},
	{name: "FM45", meaning: "no space, no descriptors: refused, undone"},
	{name: "FM48", meaning: "the guest's bind fails: undone, with its reason"},
	{name: "FM49", meaning: "the source is swapped for a link: never followed"},
	{name: "FM50", meaning: "a sibling of the file is nowhere in the VM, nor for an intruder in the VMM's place"},
	{name: "FM51", meaning: "no staging point is left in any mount namespace of the guest"},
	{name: "FM52", meaning: "the devices mounted again: only what the VM was given"},
	{name: "FM53", meaning: "nothing can be made beside the staged file"},
	{name: "FM54", meaning: ".., links, and an intruder in the VMM's place reach nothing outside"},
	{name: "FM55", meaning: "chmod, chown: the host's inode keeps its own"},
	{name: "FM56", meaning: "so with extended attributes"},
	{name: "FM58", meaning: "a tag that is taken is drawn again"},
	{name: "FM59", meaning: "1,000 files in one container"},
	{name: "FM60", meaning: "many sandboxes mount one file"},
	{name: "FM61", meaning: "the shim is killed in each phase: nothing is left"},
	{name: "FM62", meaning: "the VMM is killed: exits for all, nothing is left"},
	{name: "FM63", meaning: "started again after the source was replaced: the new content", by: "host"},
	{name: "FM64", meaning: "deleted twice: not found", by: "host"},
	{name: "FM65", meaning: "of a pod's containers, one does not see the other's mounts"},
	{name: "FM66", meaning: "another sandbox sees nothing of this one"},
	{name: "FM67", meaning: "the staging is taken away from outside: answered, no hang"},
	{name: "FM68", meaning: "what a crash of the host left is swept", by: "host"},
	{name: "FM69", meaning: "a ConfigMap's swap: seen in the directory, not in the file"},
	{name: "DM01", meaning: "read-write both ways"},
	{name: "DM02", meaning: "read-only is enforced on the host"},
	{name: "DM03", meaning: "rbind shows submounts, bind does not"},
	{name: "DM04", meaning: "a later mount below the source: seen with rslave, not with rprivate"},
	{name: "DM05", meaning: "propagation to the host: refused"},
	{name: "DM06", meaning: "/proc, /sys, control groups, /dev/shm are the guest's"},
	{name: "DM07", meaning: "tmpfs, devpts, mqueue are the guest's, with their options"},
	{name: "DM08", meaning: "100,000 entries"},
	{name: "DM09", meaning: "names with any byte"},
	{name: "DM10", meaning: "links inside resolve in the guest"},
	{name: "DM11", meaning: "hard links, fsync, rename, attributes, O_TMPFILE"},
	{name: "DM12", meaning: "proc and others of the host's kernel below a directory: left out, named; as a source: refused"},
}
