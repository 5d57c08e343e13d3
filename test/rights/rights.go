// Package rights tries who may do what to files: every identity (users, groups,
// capabilities) × every kind of file and directory (owners, modes, access control lists)
// × every call. It decides nothing. The same is tried under two runtimes, and what they
// answer is compared: runc's answer is right.
//
// The host makes what is tried (Make, MakeFiles), a container runs Main, which prints a
// line for each case, and the host looks at what became of it (Look).
package rights

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// The commands of Main.
const (
	// Tree tries what Make made in a directory.
	Tree = "tree"
	// Made makes it before, as the container's root.
	Made = "made"
	// Mounts tries files of MakeFiles that are mounted in a directory.
	Mounts = "mounts"
)

// A Sample is how many of the pairs of an identity and a kind are tried: one of so many, and
// more of the kinds that have access control lists. Every identity, kind and call is among
// them; 1 is all pairs.
type Sample int

// ofLists is how many pairs there are for one that is tried of a kind with a list: few enough
// that each identity meets some.
const ofLists = 5

// has tells whether a pair is tried, by the numbers of the two and the kind's name.
func (s Sample) has(identity, kind int, name string) bool {
	one := int(s)
	if strings.Contains(name, "list") {
		one = min(one, ofLists)
	}
	return (identity+kind)%one == 0
}

// Main runs a command: tree, made or mounts, with a directory and a sample.
func Main(args []string) error {
	if len(args) < 3 {
		return errors.New("rights: tree, made or mounts, a directory and a sample")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	dir, sample := args[1], Sample(n)
	switch args[0] {
	case Made:
		fmt.Printf("root, all, make: %s\n", text(Make(dir, sample)))
		fallthrough
	case Tree:
		return each(func(t tries) error { return t.tree(filepath.Join(dir, t.name)) }, sample)
	case Mounts:
		return mounts(dir, sample)
	default:
		return fmt.Errorf("rights: no command %s", args[0])
	}
}

// tries are those of an identity. They print a line for each case.
type tries struct {
	identity
	number int
	sample Sample
	out    *bufio.Writer
}

func each(do func(tries) error, sample Sample) error {
	unix.Umask(0o022)
	for number, i := range identities {
		t := tries{i, number, sample, bufio.NewWriter(os.Stdout)}
		if err := errors.Join(do(t), t.out.Flush()); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
	}
	return nil
}

func (t tries) say(kind, what, result string) {
	fmt.Fprintf(t.out, "%s, %s, %s: %s\n", t.name, kind, what, result)
}

// tree tries what Make made for the identity.
func (t tries) tree(dir string) error {
	return t.as(func() error {
		for k, d := range directories {
			if t.sample.has(t.number, k, d.name) {
				tryDirectory(t.identity, filepath.Join(dir, "dir "+d.name), func(what, result string) { t.say("dir "+d.name, what, result) })
			}
		}
		for k, f := range files {
			for _, part := range parts {
				if t.sample.has(t.number, k, f.name) {
					try(t.identity, filepath.Join(dir, "file "+f.name+", "+part.name), part.cases, func(what, result string) { t.say("file "+f.name, what, result) })
				}
			}
		}
		return nil
	})
}

// mounts tries each file as it was mounted, with what changes nothing, and then, as each
// identity finds it once root has made it again what it was, with everything.
func mounts(dir string, sample Sample) error {
	if err := each(func(t tries) error { return t.mounts(dir, "as mounted") }, sample); err != nil {
		return err
	}
	return each(func(t tries) error {
		for k, f := range files {
			if sample.has(t.number, k, f.name) {
				fmt.Fprintf(t.out, "root, mount %s, make again for %s: %s\n", f.name, t.name, text(f.writeFile(filepath.Join(dir, f.name))))
			}
		}
		return t.mounts(dir, all)
	}, sample)
}

// all are the cases, also those that change the file.
const all = "all"

func (t tries) mounts(dir, cases string) error {
	return t.as(func() error {
		for k, f := range files {
			for _, part := range parts {
				if t.sample.has(t.number, k, f.name) && (cases == all || part.harmless) {
					try(t.identity, filepath.Join(dir, f.name), part.cases, func(what, result string) { t.say("mount "+f.name+" "+cases, what, result) })
				}
			}
		}
		return nil
	})
}

// A trial is one call of somebody on a file, and what to look at afterwards.
type trial struct {
	name string
	do   func(path string, i identity) error
}

func try(i identity, path string, cases []trial, say func(what, result string)) {
	for _, c := range cases {
		say(c.name, text(c.do(path, i))+" "+state(path))
	}
}

// attribute is one of the kind that users set.
const attribute = "user.rights"

// parts are the cases of a file. Those of a part are tried one after another on one file.
var parts = []struct {
	name     string
	harmless bool
	cases    []trial
}{
	{"look", true, []trial{
		{"read", func(path string, _ identity) error { _, err := os.ReadFile(path); return err }},
		{"open to write", func(path string, _ identity) error { return open(path, unix.O_WRONLY) }},
		{"open to read and write", func(path string, _ identity) error { return open(path, unix.O_RDWR) }},
		{"O_NOATIME", func(path string, _ identity) error { return open(path, unix.O_RDONLY|unix.O_NOATIME) }},
		{"access read", func(path string, _ identity) error { return access(path, unix.R_OK) }},
		{"access write", func(path string, _ identity) error { return access(path, unix.W_OK) }},
		{"access execute", func(path string, _ identity) error { return access(path, unix.X_OK) }},
		{"execute", func(path string, _ identity) error {
			_, err := syscall.ForkExec(path, []string{path}, nil)
			return err
		}},
		{"getxattr", func(path string, _ identity) error { _, err := unix.Getxattr(path, attribute, nil); return err }},
	}},
	{"data", false, []trial{
		{"setxattr", func(path string, _ identity) error { return unix.Setxattr(path, attribute, []byte("x"), 0) }},
		{"removexattr", func(path string, _ identity) error { return unix.Removexattr(path, attribute) }},
		{"utimes to now", func(path string, _ identity) error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, 0) }},
		{"utimes", func(path string, _ identity) error { return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)) }},
		{"append", func(path string, _ identity) error { return write(path, unix.O_APPEND) }},
		{"write", func(path string, _ identity) error { return write(path, 0) }},
		{"truncate", func(path string, _ identity) error { return unix.Truncate(path, 3) }},
		{"O_TRUNC", func(path string, _ identity) error { return open(path, unix.O_WRONLY|unix.O_TRUNC) }},
	}},
	{"owner", false, []trial{
		{"chown to the same", func(path string, _ identity) error { return unix.Chown(path, owner, group) }},
		{"chgrp to the group", func(path string, _ identity) error { return unix.Chown(path, -1, group) }},
		{"chgrp to one's own", func(path string, i identity) error { return unix.Chown(path, -1, int(i.gid)) }},
		{"chgrp to another", func(path string, _ identity) error { return unix.Chown(path, -1, another) }},
		{"chown to oneself", func(path string, i identity) error { return unix.Chown(path, int(i.uid), -1) }},
		{"chown to another", func(path string, _ identity) error { return unix.Chown(path, another, -1) }},
	}},
	{"mode", false, []trial{
		{"chmod 751", chmod(0o751)},
		{"chmod 2755", chmod(0o2755)},
		{"chmod 4711", chmod(0o4711)},
		{"write to what has set-id bits", func(path string, _ identity) error { return write(path, 0) }},
		{"chmod 6771", chmod(0o6771)},
		{"truncate what has set-id bits", func(path string, _ identity) error { return unix.Truncate(path, 1) }},
		{"chmod 1000", chmod(0o1000)},
	}},
	{"name", false, []trial{
		{"link", func(path string, _ identity) error { return unix.Link(path, path+" linked") }},
		{"rename", func(path string, _ identity) error { return unix.Rename(path, path+" renamed") }},
		{"unlink", func(path string, _ identity) error { return unix.Unlink(path) }},
	}},
	{"list", false, []trial{
		{"set a list", func(path string, _ identity) error {
			return setList(path, acl.Attribute, list("640", 7, user(named, 6), ofGroup(4)))
		}},
		{"chmod of what has a list", chmod(0o751)},
		{"set a minimal list", func(path string, _ identity) error {
			return setList(path, acl.Attribute, acl.List{
				{Tag: acl.Owner, Permissions: 6, ID: undefined}, {Tag: acl.OwnerGroup, Permissions: 4, ID: undefined}, {Tag: acl.Other, Permissions: 0, ID: undefined},
			})
		}},
		{"set an invalid list", func(path string, _ identity) error {
			return setList(path, acl.Attribute, acl.List{{Tag: acl.Owner, Permissions: 6, ID: undefined}})
		}},
		{"set a default list of a file", func(path string, _ identity) error {
			return setList(path, defaultList, list("640", 6, user(named, 6)))
		}},
		{"set a list again", func(path string, _ identity) error {
			return setList(path, acl.Attribute, list("600", 6, user(named, 6)))
		}},
		{"remove the list", func(path string, _ identity) error { return unix.Removexattr(path, acl.Attribute) }},
	}},
}

// tryDirectory tries what is done to a directory and in it.
func tryDirectory(i identity, dir string, say func(what, result string)) {
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name, look string
		do         func() error
	}{
		{"read", "", func() error { _, err := os.ReadDir(dir); return err }},
		{"stat an entry", "link", func() error { _, err := os.Lstat(at("link")); return err }},
		{"read an entry", "", func() error { _, err := os.ReadFile(at("link")); return err }},
		{"create", "new", func() error { return create(at("new"), 0o666, 0o022) }},
		{"create, umask 077", "new77", func() error { return create(at("new77"), 0o777, 0o077) }},
		{"create with set-id bits", "newid", func() error { return create(at("newid"), 0o6777, 0) }},
		{"mkdir", "newdir", func() error { return unix.Mkdir(at("newdir"), 0o777) }},
		{"mkdir in what was made", "newdir/newdir", func() error { return unix.Mkdir(at("newdir/newdir"), 0o777) }},
		{"create in what was made", "newdir/new", func() error { return create(at("newdir/new"), 0o666, 0o022) }},
		{"symlink", "newlink", func() error { return unix.Symlink("link", at("newlink")) }},
		{"mkfifo", "newfifo", func() error { return unix.Mkfifo(at("newfifo"), 0o666) }},
		{"make a socket", "newsocket", func() error { return unix.Mknod(at("newsocket"), unix.S_IFSOCK|0o666, 0) }},
		{"mknod", "newnode", func() error { return unix.Mknod(at("newnode"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) }},
		{"link", "newname", func() error { return unix.Link(at("link"), at("newname")) }},
		{"rename", "renamed", func() error { return unix.Rename(at("rename"), at("renamed")) }},
		{"rename over", "over", func() error { return unix.Rename(at("renamed"), at("over")) }},
		{"rename a foreign file", "foreign-renamed", func() error { return unix.Rename(at("foreign-rename"), at("foreign-renamed")) }},
		{"unlink", "remove", func() error { return unix.Unlink(at("remove")) }},
		{"unlink a foreign file", "foreign-remove", func() error { return unix.Unlink(at("foreign-remove")) }},
		{"rmdir", "empty", func() error { return unix.Rmdir(at("empty")) }},
		{"utimes to now", "", func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, dir, nil, 0) }},
		{"utimes", "", func() error { return os.Chtimes(dir, time.Unix(1, 0), time.Unix(1, 0)) }},
		{"setxattr", "", func() error { return unix.Setxattr(dir, attribute, []byte("x"), 0) }},
		{"set a default list", "", func() error { return setList(dir, defaultList, list("750", 7, user(named, 7))) }},
		{"mkdir below a default list", "below", func() error { return unix.Mkdir(at("below"), 0o777) }},
		{"chgrp to one's own", "", func() error { return unix.Chown(dir, -1, int(i.gid)) }},
		{"chgrp to another", "", func() error { return unix.Chown(dir, -1, another) }},
		{"chmod 2775", "", func() error { return unix.Chmod(dir, 0o2775) }},
		{"chmod 1700", "", func() error { return unix.Chmod(dir, 0o1700) }},
		{"remove the default list", "", func() error { return unix.Removexattr(dir, defaultList) }},
	} {
		say(c.name, text(c.do())+" "+state(at(c.look)))
	}
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func create(path string, mode uint32, umask int) error {
	defer unix.Umask(unix.Umask(umask))
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// access asks as the process acts (faccessat2(2), AT_EACCESS).
func access(path string, mode uint32) error {
	return unix.Faccessat2(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)
}

func write(path string, flags int) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("x"))
	return errors.Join(err, unix.Close(fd))
}

func chmod(mode uint32) func(string, identity) error {
	return func(path string, _ identity) error { return unix.Chmod(path, mode) }
}

// Allowed tells whether a result is that the call was allowed. What may be executed is no program.
func Allowed(result string) bool {
	return strings.HasPrefix(result, "ok ") || strings.HasPrefix(result, "ENOEXEC ")
}

// Parse reads what Main printed: each case's result by its name.
func Parse(output io.Reader) (map[string]string, error) {
	results := make(map[string]string)
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		name, result, ok := strings.Cut(lines.Text(), ": ")
		if !ok {
			return nil, fmt.Errorf("rights: %s", lines.Text())
		}
		if _, again := results[name]; again {
			return nil, fmt.Errorf("the case %s is there twice", name)
		}
		results[name] = result
	}
	return results, lines.Err()
}
