package pod

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// volumes are a pod's, as the kubelet makes them on the host.
type volumes struct {
	t   *testing.T
	dir string
}

func (v volumes) path(name string) string { return filepath.Join(v.dir, name) }

func (v volumes) write(name, content string) string {
	v.t.Helper()
	path := v.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		v.t.Fatal(err)
	}
	return path
}

// publish writes a volume of files as the kubelet's atomic writer does: ConfigMaps,
// Secrets, projected tokens.
func (v volumes) publish(name, version string, files map[string]string) string {
	v.t.Helper()
	for file, content := range files {
		v.write(filepath.Join(name, ".."+version, file), content)
		_ = os.Symlink(filepath.Join("..data", file), filepath.Join(v.path(name), file))
	}
	link := filepath.Join(v.path(name), "..data_tmp")
	if err := os.Symlink(".."+version, link); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(v.path(name), "..data")); err != nil {
		v.t.Fatal(err)
	}
	return v.path(name)
}

// directory makes an empty one, as an emptyDir on disk.
func (v volumes) directory(name string) string {
	v.t.Helper()
	if err := os.MkdirAll(v.path(name), 0o777); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Chmod(v.path(name), 0o777); err != nil {
		v.t.Fatal(err)
	}
	return v.path(name)
}

// memory is an emptyDir in memory of some size.
func (v volumes) memory(name, size string) string {
	v.t.Helper()
	dir := v.directory(name)
	v.mount(dir, "-t", "tmpfs", "-o", "size="+size, "tmpfs")
	return dir
}

// subPath binds a part of a volume as the kubelet does for a subPath.
func (v volumes) subPath(name, source string) string {
	v.t.Helper()
	place := v.write(name, "")
	v.mount(place, "--bind", source)
	return place
}

// mount mounts where containerd sees it, until the test's end.
func (v volumes) mount(place string, arguments ...string) {
	v.t.Helper()
	run := func(command ...string) error {
		cmd := exec.Command(command[0], command[1:]...)
		if err := host.StartCommand(cmd); err != nil {
			return err
		}
		return cmd.Wait()
	}
	if err := run(append(append([]string{"mount"}, arguments...), place)...); err != nil {
		v.t.Fatalf("mounting on %s: %v", place, err)
	}
	v.t.Cleanup(func() {
		if err := run("umount", place); err != nil {
			v.t.Errorf("%s is still in use: %v", place, err)
		}
	})
}

func mounting(mounts ...*cri.Mount) func(*cri.ContainerConfig) {
	return func(config *cri.ContainerConfig) { config.Mounts = mounts }
}

func mount(source, destination string) *cri.Mount {
	return &cri.Mount{HostPath: source, ContainerPath: destination}
}

func readOnly(source, destination string) *cri.Mount {
	return &cri.Mount{HostPath: source, ContainerPath: destination, Readonly: true}
}

// TestVolumesFM65: each kind of volume, and what one container of a pod sees of the
// other's.
func TestVolumesFM65(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		v := volumes{t, t.TempDir()}
		configMap := v.publish("config-map", "1", map[string]string{"key": "old"})
		secret := v.publish("secret", "1", map[string]string{"password": "s3cret"})
		token := v.publish("token", "1", map[string]string{"token": "jwt", "ca.crt": "ca", "namespace": "test"})
		disk, memory := v.directory("disk"), v.memory("memory", "8m")
		subPath := v.subPath("sub-path", filepath.Join(configMap, "key"))
		hosts := v.write("etc-hosts", "10.0.0.1 other\n")
		termination := v.write("termination-log", "")
		hostFile := v.write("host-file", "of the host")
		hostDir := filepath.Dir(v.write("host-dir/file", "in a directory"))

		tools := readOnly(filepath.Join(host.Output, "tools"), "/tools")
		p := startPod(t, handler, nil)
		a := p.start("a", mounting(
			readOnly(configMap, "/config"), readOnly(secret, "/secret"), readOnly(token, "/var/run/secrets/kubernetes.io/serviceaccount"),
			mount(disk, "/disk"), mount(memory, "/memory"), readOnly(subPath, "/sub-path"), mount(hosts, "/etc/hosts"),
			mount(termination, "/dev/termination-log"), mount(hostFile, "/host-file"), readOnly(hostDir, "/host-dir"), tools,
		), sleeper...)
		b := p.start("b", mounting(mount(disk, "/other/disk"), mount(memory, "/dev/shm"), tools), sleeper...)

		a.want("old", "cat /config/key")
		a.want("s3cret", "cat /secret/password")
		a.want("jwt ca test", "cd /var/run/secrets/kubernetes.io/serviceaccount && echo $(cat token) $(cat ca.crt) $(cat namespace)")
		a.want("10.0.0.1 other", "cat /etc/hosts")
		a.want("in a directory", "cat /host-dir/file")
		if _, code := a.exec("echo x > /secret/password"); code == 0 {
			t.Error("a secret can be written")
		}
		a.must("echo last words > /dev/termination-log; echo more >> /host-file")
		check(t, termination, "last words\n")
		check(t, hostFile, "of the hostmore\n")

		// A ConfigMap's update is seen in the directory and not by a subPath.
		v.publish("config-map", "2", map[string]string{"key": "new"})
		a.want("new", "for i in 1 2 3 4 5 6; do grep -q new /config/key && break; sleep 1; done; cat /config/key")
		a.want("old", "cat /sub-path")

		// What both containers mount is one file system to them.
		a.must("echo together > /disk/file; echo in memory > /memory/file")
		b.want("together", "cat /other/disk/file")
		b.want("in memory", "cat /dev/shm/file")
		b.want("8192", "df -k /dev/shm | awk 'NR == 2 { print $2 }'")
		check(t, filepath.Join(disk, "file"), "together\n")
		a.must("/tools/probe hold /disk/file 100000 > /held 2>&1 & until grep -q held /held; do kill -0 $! || { cat /held; exit 1; }; sleep 0.1; done")
		b.want("EAGAIN EAGAIN", "/tools/probe trylock /other/disk/file")

		// And what only one has, the other has not.
		for _, name := range []string{"key", "password", "ca.crt", "host-file", "termination-log"} {
			if output, _ := b.exec("find / -name " + name + " -not -path '/proc/*' -not -path '/sys/*' 2>/dev/null"); output != "" {
				t.Errorf("b sees of a's mounts: %s", output)
			}
		}
		if output := b.must("cat /proc/self/mountinfo"); strings.Contains(output, "/config") || strings.Contains(output, "/secret") {
			t.Errorf("a's mounts in b's namespace:\n%s", output)
		}

		// The one goes, the other's volume stays.
		a.stop()
		a.delete()
		b.want("together", "cat /other/disk/file")
		b.must("echo again > /other/disk/file")
		check(t, filepath.Join(disk, "file"), "again\n")
	})
}

func check(t *testing.T, path, want string) {
	t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s on the host: %q, %v; want %q", filepath.Base(path), data, err, want)
	}
}
