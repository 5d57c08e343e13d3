// probe does in a container what a shell cannot: it is mounted into the containers
// of the tests. It prints what came of it, an errno by its name.
package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/rights"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
)

var commands = map[string]func(args []string) error{
	"mmap": mmap, "direct": direct, "append": appendLines, "lock": lock, "trylock": tryLock, "hold": hold,
	"allocate": allocate, "stat": stat, "attack": attack, "setxattr": setxattr, "getxattr": getxattr,
	"removexattr": removexattr, "times": times, "rename": rename, "unlink": unlink,
	"tmpfile": tmpfile, "link": link, "fsync": fsync, "connect": connect, "pump": pump, "resident": resident, "pour": pour, "echo": echo, "mtu": mtu, "lookup": lookup, "roundtrip": roundtrip,
	"listxattr": listxattr, "make": makeFile, "as": as, "acl": aclOf, "rights": rights.Main, "posix": posix,
	"pattern": pattern, "watch": watch, "fill": fill, "pause": pause, "uid": uid, "escape": escape, "report": report, "count": count,
	"greet": greet, "images": images, "clock": clock, "occupy": occupy, "can": can, "stress": stressed, "tree": tree, "work": work, "furnish": furnish,
	"kvm": func([]string) error { return kvm.Check() },
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Println("probe: unknown command")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println(name(err))
		os.Exit(1)
	}
}

// name is an errno's, such as EROFS, or else the error's text.
func name(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// mmap FILE TEXT writes through a shared mapping.
func mmap(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(file.Fd()), 0, len(args[1]), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(data, args[1])
	return errors.Join(unix.Msync(data, unix.MS_SYNC), unix.Munmap(data), file.Close())
}

// direct FILE writes and reads a block past the page cache.
func direct(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	const size = 4096
	area := make([]byte, 2*size)
	start := size - int(uintptr(unsafe.Pointer(&area[0]))%size)
	block := area[start : start+size]
	for i := range block {
		block[i] = byte('a' + i%26)
	}
	if _, err := file.WriteAt(block, 0); err != nil {
		return err
	}
	written := string(block)
	clear(block)
	if _, err := file.ReadAt(block, 0); err != nil {
		return err
	}
	if string(block) != written {
		return errors.New("read something else")
	}
	fmt.Println("ok")
	return file.Close()
}

// append FILE WRITERS LINES has processes append at the same time.
func appendLines(args []string) error {
	if len(args) == 2 {
		file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		lines, _ := strconv.Atoi(args[1])
		for range lines {
			if _, err := fmt.Fprintf(file, "%08d\n", os.Getpid()); err != nil {
				return err
			}
		}
		return file.Close()
	}
	writers, _ := strconv.Atoi(args[1])
	var all []*exec.Cmd
	for range writers {
		cmd := exec.Command(os.Args[0], "append", args[0], args[2])
		if err := cmd.Start(); err != nil {
			return err
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// lock FILE takes both kinds of lock and has another process try.
func lock(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	if err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return err
	}
	output, err := exec.Command(os.Args[0], "trylock", args[0]).CombinedOutput()
	fmt.Print(string(output))
	return err
}

func tryLock(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fmt.Println(name(unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)),
		name(unix.FcntlFlock(file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})))
	return nil
}

// allocate FILE allocates 1 MiB and punches a hole of half of it.
func allocate(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	const size = 1 << 20
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	if _, err := file.WriteAt(make([]byte, size), 0); err != nil {
		return err
	}
	if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, size/2); err != nil {
		return fmt.Errorf("punch: %w", err)
	}
	return file.Sync()
}

// stat FILE prints size, inode number, mtime, mode, owner and blocks.
func stat(args []string) error {
	var s unix.Stat_t
	if err := unix.Stat(args[0], &s); err != nil {
		return err
	}
	fmt.Printf("size=%d ino=%d mtime=%d mode=%o uid=%d gid=%d blocks=%d\n", s.Size, s.Ino, s.Mtim.Sec, s.Mode, s.Uid, s.Gid, s.Blocks)
	return nil
}

// attack FILE tries every way to change a file and prints what each came to.
func attack(args []string) error {
	path := args[0]
	_, open := os.OpenFile(path, os.O_WRONLY, 0)
	_, openTrunc := os.OpenFile(path, os.O_RDWR|os.O_TRUNC, 0)
	for _, a := range []struct {
		name string
		err  error
	}{
		{"write", open},
		{"truncate", os.Truncate(path, 0)},
		{"open-truncate", openTrunc},
		{"chmod", os.Chmod(path, 0o777)},
		{"chown", os.Chown(path, 1, 1)},
		{"utimes", os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0))},
		{"setxattr", unix.Setxattr(path, "user.x", []byte("x"), 0)},
		{"removexattr", unix.Removexattr(path, "user.x")},
	} {
		fmt.Printf("%s=%s\n", a.name, name(a.err))
	}
	return nil
}

func setxattr(args []string) error { return unix.Setxattr(args[0], args[1], []byte(args[2]), 0) }

func getxattr(args []string) error {
	value := make([]byte, 1024)
	n, err := unix.Getxattr(args[0], args[1], value)
	if err == nil {
		fmt.Println(string(value[:n]))
	}
	return err
}

func listxattr(args []string) error {
	names := make([]byte, 1<<16)
	n, err := unix.Listxattr(args[0], names)
	if err == nil {
		fmt.Println(strings.ReplaceAll(string(names[:n]), "\x00", "\n"))
	}
	return err
}

// make FILE MODE makes a file with a mode, in octal.
func makeFile(args []string) error {
	mode, err := strconv.ParseUint(args[1], 8, 32)
	if err != nil {
		return err
	}
	unix.Umask(0)
	fd, err := unix.Open(args[0], unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, uint32(mode))
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func removexattr(args []string) error { return unix.Removexattr(args[0], args[1]) }

// times FILE SECONDS sets both times.
func times(args []string) error {
	seconds, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	return os.Chtimes(args[0], time.Unix(seconds, 0), time.Unix(seconds, 0))
}

func rename(args []string) error { return unix.Rename(args[0], args[1]) }

func unlink(args []string) error { return unix.Unlink(args[0]) }

func link(args []string) error { return unix.Link(args[0], args[1]) }

// tmpfile DIR makes a file without a name.
func tmpfile(args []string) error {
	fd, err := unix.Open(args[0], unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	fmt.Println("ok")
	return unix.Close(fd)
}

func fsync(args []string) error {
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// uid prints the effective user.
func uid([]string) error {
	_, err := fmt.Println(os.Geteuid())
	return err
}

// count DIR counts entries.
func count(args []string) error {
	dir, err := os.Open(args[0])
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	fmt.Println(len(names))
	return err
}

// pattern FILE write|read|random-write|random-read uses a file and prints how long it
// took. The page cache is emptied before.
func pattern(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	do, size, times := file.ReadAt, 1<<20, int(info.Size()>>20)
	if strings.HasSuffix(args[1], "write") {
		do = file.WriteAt
	}
	random := strings.HasPrefix(args[1], "random-")
	if random {
		size, times = 4<<10, 1000
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	buffer := make([]byte, size)
	begin := time.Now()
	for i := range times {
		at := int64(i)
		if random {
			at = rand.Int64N(info.Size() / int64(size))
		}
		if _, err := do(buffer, at*int64(size)); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	fmt.Println(time.Since(begin))
	return file.Close()
}

// corePattern is what the kernel runs, as root and in its first namespaces, for a
// process that dumps core (core(5)).
const corePattern = "/proc/sys/kernel/core_pattern"

// escape OUTPUT leaves the container as a guest's root can: it has the kernel run
// "probe report" outside all containers and prints what that wrote.
func escape(args []string) error {
	if err := copyFile("/proc/self/exe", "/escape-probe"); err != nil {
		return err
	}
	before, err := os.ReadFile(corePattern)
	if err != nil {
		return err
	}
	const outside = "/proc/%P/root" // this container, seen from there
	pattern := fmt.Sprintf("|%s/escape-probe report %s/escape-report", outside, outside)
	if err := os.WriteFile(corePattern, []byte(pattern), 0); err != nil {
		return err
	}
	defer os.WriteFile(corePattern, before, 0)
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &limit)
	_ = exec.Command("/bin/sh", "-c", "kill -SEGV $$").Run()
	for range 100 {
		if output, err := os.ReadFile("/escape-report"); err == nil && strings.HasSuffix(string(output), "end\n") {
			fmt.Print(string(output))
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the kernel ran nothing")
}

// resident FILE opens a file, and prints how many of its pages are in memory then, and how many
// it has (mincore(2)).
func resident(args []string) error {
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(data)
	pages := make([]byte, (len(data)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)), uintptr(unsafe.Pointer(unsafe.SliceData(pages)))); errno != 0 {
		return os.NewSyscallError("mincore", errno)
	}
	there := 0
	for _, page := range pages {
		there += int(page & 1)
	}
	fmt.Println(there, "of", len(pages))
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// report OUTPUT runs outside all containers: it writes every mount point of every
// process, and every file that it finds below the agent's directories.
func report(args []string) error {
	out, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer out.Close()
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		mounts, err := os.ReadFile("/proc/" + entry.Name() + "/mountinfo")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(mounts)) {
			fmt.Fprintf(out, "mount %s %s", entry.Name(), line)
		}
	}
	for _, dir := range []string{"/run/msb/stages", "/run/msb/files"} {
		walk(out, dir, 4)
	}
	fmt.Fprintln(out, "end")
	return out.Sync()
}

func walk(out io.Writer, dir string, depth int) {
	entries, err := os.ReadDir(dir)
	if err != nil || depth == 0 {
		return
	}
	for _, entry := range entries {
		fmt.Fprintf(out, "file %s/%s\n", dir, entry.Name())
		walk(out, dir+"/"+entry.Name(), depth-1)
	}
}
