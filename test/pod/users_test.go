package pod

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	types "github.com/containerd/containerd/api/types/transfer"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/copy"
)

// mapped is what the kubelet gives a pod with hostUsers: false.
var mapped = []*cri.IDMapping{{ContainerId: 0, HostId: 1 << 20, Length: 1 << 16}}

// inUserNamespace gives a pod a user namespace of its own, and a host name that tells.
func inUserNamespace(config *cri.PodSandboxConfig) {
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{
		Mode: cri.NamespaceMode_POD, Uids: mapped, Gids: mapped,
	}
	config.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1", "net.ipv4.ping_group_range": "0 5"}
}

// volume is a mount as the kubelet makes it for such a pod.
func volume(source, destination string) *cri.Mount {
	return &cri.Mount{HostPath: source, ContainerPath: destination, UidMappings: mapped, GidMappings: mapped}
}

// guestAttacks are what the guest's root can do.
var guestAttacks = []string{
	"mkdir -p /pool && mount -t virtiofs msbpool /pool",
	"mkdir -p /files && mount -t virtiofs msbfiles /files",
	"cp /proc/sys/kernel/panic /tmp/panic && cat /tmp/panic > /proc/sys/kernel/panic",
	"echo 3 > /proc/sys/vm/drop_caches",
}

// TestGuestAttacks: without a user namespace they are possible, so that TestUsers shows
// something.
func TestGuestAttacks(t *testing.T) {
	nothingLeft(t)
	p := startPod(t, handlers[0], func(config *cri.PodSandboxConfig) { config.Linux.SecurityContext.Privileged = true })
	c := p.start("privileged", func(config *cri.ContainerConfig) { config.Linux.SecurityContext.Privileged = true }, sleeper...)
	for _, attack := range guestAttacks {
		c.must(attack)
	}
}

// TestUsers: in a pod with a user namespace root is root in it only, and not the guest's;
// what it makes on a volume is the host's root's, as without one.
func TestUsers(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		v := volumes{t, t.TempDir()}
		disk, file := v.directory("disk"), v.write("file", "of the host\n")
		private := v.write("disk/private", "for root\n")
		if err := os.Chmod(private, 0o600); err != nil {
			t.Fatal(err)
		}
		foreign := v.write("disk/foreign", "of an id that is not mapped\n")
		if err := os.Chown(foreign, 1<<16+5, 1<<16+5); err != nil {
			t.Fatal(err)
		}
		p := startPod(t, handler, func(config *cri.PodSandboxConfig) {
			inUserNamespace(config)
			config.Linux.SecurityContext.Privileged = true // one of its containers is
		})
		a := p.start("a", mounting(volume(disk, "/disk"), volume(file, "/file")), sleeper...)
		b := p.start("b", mounting(volume(disk, "/disk")), sleeper...)

		a.want("0 1048576 65536", "echo $(cat /proc/self/uid_map)")
		for _, kind := range []string{"user", "net", "ipc", "uts"} {
			if script := "readlink /proc/self/ns/" + kind; a.must(script) != b.must(script) {
				t.Errorf("%s: not shared", kind)
			}
		}
		a.want("root root", "echo $(id -un) $(stat -c %U /)")
		a.want("pod", "hostname")
		a.want("80 1 0 5", "echo $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ping_group_range)")
		a.must("ip addr show dev eth0 | grep 10.98.; ping -c 1 -W 5 127.0.0.1")
		a.must("echo x > /dev/shm/a; test -O /dev/shm/a")
		a.must("echo written >/root/own; chown 5:6 /root/own; test $(stat -c %u:%g /root/own) = 5:6")

		// Volumes: owners are the host's, both ways.
		a.want("for root", "cat /disk/private; test $(stat -c %u /disk/private) = 0 || echo not root")
		a.must("echo of a > /disk/of-a && chown 7:8 /disk/of-a && mkdir /disk/dir")
		b.want("of a", "cat /disk/of-a")
		b.must("cd /disk/dir && echo x > new && mv new file && ln file linked && mv linked .. && rm ../linked file")
		wantOwner(t, filepath.Join(disk, "of-a"), 7, 8)
		wantOwner(t, filepath.Join(disk, "dir"), 0, 0)
		a.must("test $(stat -c %u /file) = 0; echo of the guest >> /file; chmod 777 /file; chown 9 /file; test $(stat -c %u /file) = 9")
		check(t, file, "of the host\nof the guest\n")
		wantOwner(t, file, 0, 0)

		b.copies()

		// And what is not its root's to do, with all capabilities that it can have.
		c := p.start("c", func(config *cri.ContainerConfig) {
			config.Mounts = []*cri.Mount{volume(disk, "/disk")}
			config.Linux.SecurityContext.Privileged = true
		}, sleeper...)
		c.must("mkdir /of-c && mount -t tmpfs none /of-c")
		for _, attack := range guestAttacks {
			if output, code := c.exec(attack); code == 0 {
				t.Errorf("%s succeeds: %s", attack, output)
			}
		}
		if _, code := c.exec("chown 0 /disk/foreign"); code == 0 {
			t.Error("a file of an id that is not mapped can be had")
		}
		a.stop()
		a.delete()
		b.want("of a", "cat /disk/of-a")
		if left := p.given(); len(left) != p.roots() {
			t.Errorf("%d containers, and the pod is given %v", p.roots(), left)
		}
	})
}

// copies copies into the container and out of it: owners are those of its user namespace.
func (c *container) copies() {
	c.t.Helper()
	shim, err := copy.Dial(c.bootstrap())
	if err != nil {
		c.t.Fatal(err)
	}
	defer shim.Close()
	place := &types.ContainerPath{ContainerID: c.id, Path: "/dev/shm/copied", PreserveOwnership: true}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "file", Mode: 0o600, Uid: 5, Gid: 6}), w.Close()); err != nil {
		c.t.Fatal(err)
	}
	if err := copy.In(c.t.Context(), shim, place, &archive); err != nil {
		c.t.Error(err)
	}
	c.want("0:0 5:6", "echo $(stat -c %u:%g /dev/shm/copied /dev/shm/copied/file)")
	place.Path += "/file"
	if err := copy.Out(c.t.Context(), shim, place, &archive); err != nil {
		c.t.Error(err)
	}
	if header, err := tar.NewReader(&archive).Next(); err != nil || header.Uid != 5 || header.Gid != 6 {
		c.t.Errorf("%+v, %v", header, err)
	}
}

// bootstrap is the file with the address of the container's shim, as it is seen from here:
// its socket is in containerd's mount namespace.
func (c *container) bootstrap() string {
	c.t.Helper()
	found, err := filepath.Glob(filepath.Join(host.Dir, "state", "*", "*", c.id, "bootstrap.json"))
	if err != nil || len(found) != 1 {
		c.t.Fatalf("the address of the shim: %q, %v", found, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		c.t.Fatal(err)
	}
	seen := filepath.Join(c.t.TempDir(), "bootstrap.json")
	text := strings.Replace(string(data), "unix://", fmt.Sprintf("unix:///proc/%d/root", host.Pid()), 1)
	if err := os.WriteFile(seen, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return seen
}

func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil || stat.Uid != uid || stat.Gid != gid {
		t.Errorf("%s on the host is %d:%d's, %v; want %d:%d", filepath.Base(path), stat.Uid, stat.Gid, err, uid, gid)
	}
}
