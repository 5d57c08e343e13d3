package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/acl"
)

// Users of the container's: the owner of the files, a member of their group, one whom
// their access control lists name.
const (
	owner  = "probe as 1000 1000"
	member = "probe as 1001 1001,2000"
	named  = "probe as 1002 1002"
)

// as runs a command in the container as one of them and returns what it printed.
func (c contract) as(user, command string) string {
	c.t.Helper()
	output, _ := c.exec("/probe/" + user + " sh -c '" + command + "' 2>&1")
	return strings.TrimSpace(output)
}

// sourceRights makes a directory for whoever may write there as a member of group 2000,
// and files whose mode shows the mask of their list.
func (c contract) sourceRights(t *testing.T) {
	t.Helper()
	shared := c.path("rights/shared")
	if err := errors.Join(os.MkdirAll(shared, 0o755), os.Chown(shared, 1000, 2000), os.Chmod(shared, 0o775|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.path("rights"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, c.path("rights/listed"), "secret")
	if err := errors.Join(os.Chmod(c.path("rights/listed"), 0o600), os.Chown(c.path("rights/listed"), 1000, 2000)); err != nil {
		t.Fatal(err)
	}
	setACL(t, c.path("rights/listed"), acl.Access, "u::rw-,u:1002:rw-,g::---,m::rw-,o::---")
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
// user, with the directory's group.
func vmGroups(t *testing.T, c contract) {
	c.must("mkdir -m 2775 /shared && chown 1000:2000 /shared")
	for _, dir := range []string{"/d/rights/shared", "/shared"} {
		for what, command := range map[string]string{
			"file": "umask 022; echo x >made", "directory": "umask 022; mkdir made", "symbolic link": "ln -s /etc made", "FIFO": "umask 022; mkfifo made",
		} {
			if got := c.as(member, "cd "+dir+" && "+command); got != "" {
				t.Errorf("a member of the group makes a %s in %s: %s", what, dir, got)
			}
			if got, want := c.must("cd "+dir+" && stat -c %u:%g made"), "1001:2000"; got != want {
				t.Errorf("a %s in %s belongs to %s, want %s", what, dir, got, want)
			}
			c.must("rm -rf " + dir + "/made")
		}
		if got := c.as(named, "echo x >"+dir+"/made"); !strings.Contains(got, "Permission denied") {
			t.Errorf("who is no member makes a file in %s: %q", dir, got)
		}
		// Who is not in the directory's group gets no set-group-ID bit of it, though the
		// server that makes the file could give it (CVE-2022-0358).
		c.must("chmod 2777 " + dir)
		c.as(named, "/probe/probe make "+dir+"/setgid 2775")
		if got := c.must("stat -c %a:%u:%g " + dir + "/setgid"); got != "775:1002:2000" {
			t.Errorf("a set-group-ID file of who is no member, in %s: %s", dir, got)
		}
		c.as(member, "/probe/probe make "+dir+"/member 2775")
		if got := c.must("stat -c %a:%u:%g " + dir + "/member"); got != "2775:1001:2000" {
			t.Errorf("a set-group-ID file of a member, in %s: %s", dir, got)
		}
		c.must("chmod 3777 " + dir + " && rm " + dir + "/setgid")
		if got := c.as(named, "rm -f "+dir+"/member"); !strings.Contains(got, "not permitted") {
			t.Errorf("another's file in the sticky directory %s is removed: %q", dir, got)
		}
	}
	if got := modeOf(t, c.path("rights/shared/member")); got != "2775" {
		t.Errorf("on the host its mode is %s", got)
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

func vmACL(t *testing.T, c contract) {
	if got := modeOf(t, c.path("rights/listed")); got != "660" {
		t.Fatalf("the file of the test shows mode %s: it attacks nothing", got)
	}
	c.must("echo secret >/listed && chmod 600 /listed && chown 1000:2000 /listed && /probe/probe acl /listed access u::rw-,u:1002:rw-,g::---,m::rw-,o::---")
	for _, file := range []string{"/d/rights/listed", "/listed"} {
		for _, command := range []string{"cat " + file, "echo overwritten >" + file, "echo more >>" + file} {
			if got := c.as(member, command); !strings.Contains(got, "Permission denied") {
				t.Errorf("a member of the group, whom the list refuses: %s: %q", command, got)
			}
		}
		if got := c.as(named, "cat "+file+" && echo named >>"+file+" && tail -n 1 "+file); !strings.HasSuffix(got, "named") {
			t.Errorf("the user whom the list of %s allows: %q", file, got)
		}
		if got := c.as(owner, "tail -n 1 "+file); got != "named" {
			t.Errorf("the owner of %s: %q", file, got)
		}
		// A list that says less shows at once, and so does chmod, which is the mask.
		c.must("/probe/probe acl " + file + " access u::rw-,u:1002:---,g::r--,m::rw-,o::---")
		if got := c.as(named, "cat "+file); !strings.Contains(got, "Permission denied") {
			t.Errorf("the user whom the new list of %s refuses: %q", file, got)
		}
		if got := c.as(member, "tail -n 1 "+file); got != "named" {
			t.Errorf("a member, whom the new list of %s allows: %q", file, got)
		}
		c.must("chmod 600 " + file)
		if got := c.as(member, "cat "+file); !strings.Contains(got, "Permission denied") {
			t.Errorf("a member, whom the mask of %s refuses: %q", file, got)
		}
	}
	if got, want := getACL(t, c.path("rights/listed"), acl.Access), "u::rw-,u:1002:---,g::r--,m::---,o::---"; got != want {
		t.Errorf("on the host: %s, want %s", got, want)
	}
	// Sockets and the like have lists, too, which are none.
	c.must("cd /d/rights && mkfifo -m 660 fifo && mknod -m 660 null c 1 3 && chown 1000:2000 fifo null")
	if got := c.as(member, "[ -r /d/rights/fifo ] && [ -w /d/rights/null ] && echo ok"); got != "ok" {
		t.Errorf("special files without a list: %q", got)
	}
}

func vmDefaultACL(t *testing.T, c contract) {
	const list = "u::rwx,u:1002:rwx,g::r-x,m::rwx,o::---"
	c.must("mkdir /inherit /d/rights/plain && chmod 777 /d/rights/plain && mkdir -m 777 /d/rights/inherit && /probe/probe acl /inherit default " + list)
	setACL(t, c.path("rights/inherit"), acl.Default, list)
	for _, dir := range []string{"/d/rights/inherit", "/inherit"} {
		if got := c.must("/probe/probe acl " + dir + " default"); got != list {
			t.Errorf("the default list of %s is %s", dir, got)
		}
		c.must("chmod 777 " + dir + " && umask 077 && cd " + dir + " && echo x >file && mkdir directory && mkfifo fifo")
		for name, want := range map[string]string{
			"file": "u::rw-,u:1002:rwx,g::r-x,m::rw-,o::---", "fifo": "u::rw-,u:1002:rwx,g::r-x,m::rw-,o::---", "directory": list,
		} {
			if got := c.must("/probe/probe acl " + dir + "/" + name + " access"); got != want {
				t.Errorf("%s/%s has %s, want %s", dir, name, got, want)
			}
		}
		if got := c.must("/probe/probe acl " + dir + "/directory default"); got != list {
			t.Errorf("%s/directory hands on %s", dir, got)
		}
		if got := c.as(named, "echo y >>"+dir+"/file && echo z >"+dir+"/directory/z && cat "+dir+"/file"); got != "x\ny" {
			t.Errorf("the user whom the inherited lists allow: %q", got)
		}
	}
	// Without one, the umask counts.
	c.must("umask 027 && cd /d/rights/plain && echo x >file && mkdir directory && mkfifo fifo")
	if got := c.must("cd /d/rights/plain && stat -c %a file directory fifo | xargs"); got != "640 750 640" {
		t.Errorf("with a umask of 027: %s", got)
	}
	long := []string{"u::rw-"}
	for user := range 496 {
		long = append(long, fmt.Sprintf("u:%d:r--", 3000+user))
	}
	text := strings.Join(append(long, "g::---", "m::r--", "o::---"), ",")
	c.must("touch /d/rights/long && /probe/probe acl /d/rights/long access " + text)
	if got := c.must("/probe/probe acl /d/rights/long access"); got != text {
		t.Errorf("500 entries come back as %q", got)
	}
	if got := getACL(t, c.path("rights/long"), acl.Access); got != text {
		t.Errorf("500 entries on the host: %q", got)
	}
	// A member of no group of the file's loses its set-group-ID bit with a new list (posix_acl_update_mode).
	c.must("cd /d/rights && touch setgid && chown 1000:2000 setgid && chmod 2770 setgid")
	if got := c.as(owner, "/probe/probe acl /d/rights/setgid access u::rwx,g::rwx,o::---; stat -c %a /d/rights/setgid"); got != "770" {
		t.Errorf("set-group-ID after a new list: %s", got)
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
	if got := c.probe("listxattr /d/rights/ov/upper/gone"); !strings.Contains(got, "trusted.overlay.opaque") || strings.Contains(got, "user.msb") {
		t.Errorf("the guest sees %q", got)
	}
	for _, command := range []string{"getxattr /d/rights/ov/upper/gone user.msb.trusted.overlay.opaque", "setxattr /d/rights/ov user.msb.trusted.a b", "removexattr /d/rights/ov/upper/gone user.msb.trusted.overlay.opaque"} {
		if got := c.probe(command); got != "EPERM" {
			t.Errorf("%s: %s", command, got)
		}
	}
	if err := unix.Setxattr(c.path("rights/listed"), "trusted.hosts", []byte("secret"), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	if got := c.probe("getxattr /d/rights/listed trusted.hosts"); got != "ENODATA" {
		t.Errorf("the host's own attribute: %s", got)
	}
	if got := c.probe("listxattr /d/rights/listed"); strings.Contains(got, "hosts") {
		t.Errorf("the guest sees %q", got)
	}
	// A container's user is no root, and trusted.* is root's.
	if got := c.as(owner, "/probe/probe setxattr /d/rights/listed trusted.a b"); got != "EPERM" {
		t.Errorf("a user sets trusted.a: %q", got)
	}
}
