package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/acl"
)

// Users of the container's, as words of a script: the owner of the files, a member of
// their group, one whom access control lists name.
const users = `
owner()  { probe as 1000 1000 sh -c "$1" 2>&1; }
member() { probe as 1001 1001,2000 sh -c "$1" 2>&1; }
named()  { probe as 1002 1002 sh -c "$1" 2>&1; }
`

// compare runs a script and wants what it prints.
func (c contract) compare(what, script, want string) {
	c.t.Helper()
	if got := c.must(users + script); got != strings.TrimSpace(want) {
		c.t.Errorf("%s: the script\n%s\nprinted\n%s\nwant\n%s", what, script, got, want)
	}
}

// sourceRights makes a directory for whoever may write there as a member of group 2000,
// on a file system with users' attributes, which a tmpfs is since Linux 6.6.
func (c contract) sourceRights(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "msb-rights-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	shared := filepath.Join(dir, "shared")
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.Mkdir(shared, 0o755), os.Chown(shared, 1000, 2000), os.Chmod(shared, 0o775|os.ModeSetgid),
		os.Symlink(dir, c.path("rights")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func setACL(t *testing.T, path, name, list string) {
	t.Helper()
	value, err := acl.Encode(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, name, value, 0); err != nil {
		t.Fatalf("%s of %s: %v", name, path, err)
	}
}

func getACL(t *testing.T, path, name string) string {
	t.Helper()
	value := make([]byte, 1<<16)
	n, err := unix.Getxattr(path, name, value)
	if err != nil {
		t.Errorf("%s of %s: %v", name, path, err)
		return ""
	}
	list, err := acl.Decode(value[:n])
	if err != nil {
		t.Error(err)
	}
	return list
}

// What the guest's kernel allows a member of a group, the file server makes: as that
// user, with the directory's group. Who is not in the directory's group gets no
// set-group-ID bit of it, though the server could give it (CVE-2022-0358).
func vmGroups(t *testing.T, c contract) {
	c.must("mkdir /shared && chown 1000:2000 /shared && chmod 2775 /shared")
	for _, dir := range []string{"/d/rights/shared", "/shared"} {
		c.compare("in "+dir, "cd "+dir+`
member 'umask 022; echo x >file; mkdir directory; ln -s /etc link; mkfifo fifo; mv file moved'
stat -c %n:%a:%u:%g moved directory link fifo
named 'echo x >other'
chmod 2777 .
named 'probe make setgid 2775'
member 'probe make members 2775'
stat -c %n:%a:%u:%g setgid members
chmod 3777 .
named 'rm -f members'
named 'mv setgid own && rm own'
member 'rm members && ls'
`, `
moved:644:1001:2000
directory:2755:1001:2000
link:777:1001:2000
fifo:644:1001:2000
sh: can't create other: Permission denied
setgid:775:1002:2000
members:2775:1001:2000
rm: can't remove 'members': Operation not permitted
directory
fifo
link
moved
`)
	}
	var stat unix.Stat_t
	if err := unix.Stat(c.path("rights/shared/moved"), &stat); err != nil || stat.Uid != 1001 || stat.Gid != 2000 || stat.Mode&0o7777 != 0o644 {
		t.Errorf("on the host: %d:%d, %o, %v", stat.Uid, stat.Gid, stat.Mode, err)
	}
}

func modeOf(t *testing.T, path string) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%o", stat.Mode&0o7777)
}

// What is shown of a list to the guest, whose kernel has none in a share, is what it
// gives to everybody who may be meant.
var narrowed = []struct{ list, host, guest string }{
	{"u::rw-,u:1002:rw-,g::---,m::rw-,o::---", "660", "600"},
	{"u::rw-,u:1002:rw-,g::r--,m::rw-,o::r--", "664", "644"},
	{"u::rw-,u:1002:---,g::r--,m::rw-,o::r--", "664", "600"},
	{"u::rw-,u:1002:r--,u:1001:rw-,g::rw-,m::rw-,o::rw-", "666", "644"},
	{"u::rw-,g::rw-,g:2001:---,m::rw-,o::r--", "664", "660"},
	{"u::rwx,u:1002:rwx,g::rwx,m::r-x,o::rwx", "757", "755"},
	{"u::rw-,g::r--,m::r--,o::r--", "644", "644"},
	{"u::rw-,g::rw-,o::r--", "664", "664"},
}

// sourceLists makes files with lists, of user 1000 and group 2000.
func (c contract) sourceLists(t *testing.T) {
	t.Helper()
	for i, each := range narrowed {
		path := c.path(fmt.Sprintf("rights/lists/%d", i))
		write(t, path, "content")
		if err := errors.Join(os.Chown(path, 1000, 2000), os.Chmod(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		setACL(t, path, acl.Access, each.list)
		if got := modeOf(t, path); got != each.host {
			t.Fatalf("with the list %s the host shows mode %s, want %s: the test attacks nothing", each.list, got, each.host)
		}
	}
}

func vmACL(t *testing.T, c contract) {
	c.sourceLists(t)
	var modes strings.Builder
	for _, each := range narrowed {
		fmt.Fprintln(&modes, each.guest)
	}
	c.compare("modes", "cd /d/rights/lists && stat -c %a *", modes.String())
	c.compare("by readdirplus", "ls -ln /d/rights/lists | cut -c1-10 | tail -n +2 | sort | uniq -c | tr -s ' ' | sed 's/^ //'", `
2 -rw-------
3 -rw-r--r--
1 -rw-rw----
1 -rw-rw-r--
1 -rwxr-xr-x
`)
	// A directory's entries are for whom its list lets in.
	dir := c.path("rights/private")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 1000, 2000)); err != nil {
		t.Fatal(err)
	}
	write(t, c.path("rights/private/file"), "content")
	setACL(t, dir, acl.Access, "u::rwx,u:1002:rwx,g::---,m::rwx,o::---")
	c.compare("whom lists refuse", `cd /d/rights/lists
member 'cat 0; echo overwritten >0; echo more >>0; cat ../private/file; ls ../private'
named 'cat 2'
owner 'echo more >>0; cat 0'
cd .. && mkfifo -m 660 fifo && mknod -m 660 null c 1 3 && chown 1000:2000 fifo null
member '[ -r fifo ] && [ -w null ] && echo special files have no list'
`, `
cat: can't open '0': Permission denied
sh: can't create 0: Permission denied
sh: can't create 0: Permission denied
cat: can't open '../private/file': Permission denied
ls: can't open '../private': Permission denied
cat: can't open '2': Permission denied
contentmore
special files have no list
`)
	wantContent(t, c.path("rights/lists/0"), "contentmore\n")
}

// A default list is the host's: what is made in the guest inherits it there, and the umask
// counts as well. The guest's programs are told that there are no lists here.
func vmDefaultACL(t *testing.T, c contract) {
	const list = "u::rwx,u:1002:rwx,g::r-x,m::rwx,o::---"
	c.compare("lists", `cd /d/rights
probe acl . access
probe acl . default
probe acl . access u::rwx,g::---,o::---
probe acl . default u::rwx,g::---,o::---
probe acl / access; true
`, strings.Repeat("ENOTSUP\n", 5))
	if err := os.Mkdir(c.path("rights/inherit"), 0o777); err != nil {
		t.Fatal(err)
	}
	setACL(t, c.path("rights/inherit"), acl.Default, list)
	c.must("cd /d/rights/inherit && umask 077 && echo x >file && mkdir directory && umask 007 && echo x >open")
	for name, want := range map[string]string{
		"file": "u::rw-,u:1002:rwx,g::r-x,m::---,o::---", "open": "u::rw-,u:1002:rwx,g::r-x,m::rw-,o::---", "directory": "u::rwx,u:1002:rwx,g::r-x,m::---,o::---",
	} {
		if got := getACL(t, c.path("rights/inherit/"+name), acl.Access); got != want {
			t.Errorf("%s has %s on the host, want %s", name, got, want)
		}
	}
	if got := getACL(t, c.path("rights/inherit/directory"), acl.Default); got != list {
		t.Errorf("the directory hands on %s", got)
	}
	// A long list is judged as a short one.
	long := []string{"u::rw-"}
	for user := range 496 {
		long = append(long, fmt.Sprintf("u:%d:r--", 3000+user))
	}
	write(t, c.path("rights/long"), "content")
	setACL(t, c.path("rights/long"), acl.Access, strings.Join(append(long, "g::rw-", "m::rw-", "o::---"), ","))
	if got := c.must("stat -c %a /d/rights/long"); got != "640" {
		t.Errorf("with 500 entries: mode %s", got)
	}
}

// An overlay whose upper and work directories are on a volume, as Docker and containerd
// in a container make them.
func vmOverlay(t *testing.T, c contract) {
	const mount = "mount -t overlay overlay -o lowerdir=/d/rights/ov/lower,upperdir=/d/rights/ov/upper,workdir=/d/rights/ov/work /d/rights/ov/merged"
	c.must("mkdir -p /d/rights/ov && cd /d/rights/ov && mkdir -p lower/dir/sub lower/gone upper work merged && echo low >lower/dir/file && echo low >lower/dir/sub/f && echo low >lower/file && ln -s file lower/link && echo x >lower/gone/x && " + mount)
	c.must("cd /d/rights/ov/merged && echo changed >>file && rm dir/file && rm -r gone && mkdir gone && echo y >gone/y && chown -h 1000:1000 link && mv dir moved && chmod 700 moved")
	const look = "cd /d/rights/ov/merged && cat file | xargs && ls -R . | xargs && cat moved/sub/f && readlink link && stat -c %u link && ls gone"
	want := c.must(look)
	if !strings.HasPrefix(want, "low changed\n") || !strings.HasSuffix(want, "low\nfile\n1000\ny") || strings.Contains(want, " dir") {
		t.Errorf("the overlay has %q", want)
	}
	c.must("umount /d/rights/ov/merged && " + mount)
	if got := c.must(look); got != want {
		t.Errorf("mounted again the overlay has\n%q, had\n%q", got, want)
	}
	c.must("umount /d/rights/ov/merged")
	// Their names on the host, which the guest does not see.
	if _, err := unix.Getxattr(c.path("rights/ov/upper/gone"), "user.msb.trusted.overlay.opaque", nil); err != nil {
		t.Errorf("the attribute on the host: %v", err)
	}
	write(t, c.path("rights/attributes"), "")
	if err := unix.Setxattr(c.path("rights/attributes"), "trusted.hosts", []byte("secret"), 0); err != nil {
		t.Fatal(err)
	}
	// And a user of the guest is not its root.
	c.compare("names of attributes", `cd /d/rights
probe listxattr ov/upper/gone | sort
probe getxattr ov/upper/gone user.msb.trusted.overlay.opaque
probe setxattr ov user.msb.trusted.a b
probe removexattr ov/upper/gone user.msb.trusted.overlay.opaque
probe getxattr attributes trusted.hosts
probe listxattr attributes
owner 'probe setxattr attributes trusted.a b'
chown 1000 attributes
owner 'probe setxattr attributes trusted.a b'
true
`, `

trusted.overlay.opaque
ENODATA
EPERM
EPERM
ENODATA

EPERM
EPERM
`)
}
