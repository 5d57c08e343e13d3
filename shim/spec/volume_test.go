package spec

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/image"
)

func volumeMount(kind string, options ...string) specs.Mount {
	return specs.Mount{Destination: "/data", Type: kind, Source: "/images/one.img", Options: options}
}

// What a mount of an image asks for, and what runc mounts in the guest.
func TestVolume(t *testing.T) {
	for name, c := range map[string]struct {
		mount specs.Mount
		want  image.Image
		guest string
	}{
		"ext4":                  {volumeMount("ext4"), image.Image{Type: "ext4"}, "bind rprivate"},
		"read-only":             {volumeMount("ext4", "rw", "ro", "loop"), image.Image{Type: "ext4", ReadOnly: true}, "bind rprivate ro"},
		"the last option holds": {volumeMount("ext4", "ro", "rw"), image.Image{Type: "ext4"}, "bind rprivate"},
		"rro":                   {volumeMount("ext4", "rro"), image.Image{Type: "ext4", ReadOnly: true}, "bind rprivate ro"},
		"erofs":                 {volumeMount("erofs"), image.Image{Type: "erofs", ReadOnly: true}, "bind rprivate ro"},
		"erofs rw":              {volumeMount("erofs", "rw"), image.Image{Type: "erofs", ReadOnly: true}, "bind rprivate ro"},
		"format":                {volumeMount("format/erofs"), image.Image{Type: "erofs", ReadOnly: true}, "bind rprivate ro"},
		"of a mount": {
			volumeMount("ext4", "nosuid", "nodev", "noatime", "rslave", "defaults", "X-mount.mkdir", "x-systemd.automount"),
			image.Image{Type: "ext4"},
			"bind nosuid nodev noatime rslave",
		},
		"devices": {volumeMount("erofs", "device=/a", "device=/b"), image.Image{Type: "erofs", ReadOnly: true, Devices: []string{"/a", "/b"}}, "bind rprivate ro"},
		"verity":  {volumeMount("erofs", "X-containerd.dmverity=/v"), image.Image{Type: "erofs", ReadOnly: true, Verity: "/v"}, "bind rprivate ro"},
	} {
		t.Run(name, func(t *testing.T) {
			s := container()
			s.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}, c.mount}
			p, err := New(s, "/bundle")
			if err != nil {
				t.Fatal(err)
			}
			c.want.Source = "/images/one.img"
			if len(p.Volumes) != 1 || !reflect.DeepEqual(p.Volumes[0].Image, c.want) || len(p.Binds) != 0 {
				t.Fatalf("%+v", p.Volumes)
			}
			encoded, err := p.Guest(Places{Rootfs: "/r", Volumes: []string{"/run/images/fm_1"}})
			if err != nil {
				t.Fatal(err)
			}
			var guest specs.Spec
			if err := json.Unmarshal(encoded, &guest); err != nil {
				t.Fatal(err)
			}
			got := guest.Mounts[1]
			if got.Destination != "/data" || got.Type != "bind" || got.Source != "/run/images/fm_1" || strings.Join(got.Options, " ") != c.guest {
				t.Errorf("in the guest: %+v", got)
			}
		})
	}
}

// A relative path is one of the bundle.
func TestVolumeOfBundle(t *testing.T) {
	p, err := New(container(withMount(specs.Mount{Destination: "/data", Type: "erofs", Source: "files/one.img"})), "/bundle")
	if err != nil || p.Volumes[0].Image.Source != "/bundle/files/one.img" {
		t.Errorf("%+v, %v", p, err)
	}
}

// A bind of a file that holds a file system is that of a file.
func TestVolumeBound(t *testing.T) {
	p, err := New(container(withMount(volumeMount("ext4", "rbind"))), "/bundle")
	if err != nil || len(p.Binds) != 1 || len(p.Volumes) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestVolumeRefused(t *testing.T) {
	changed := func(change func(*specs.Mount)) specs.Mount {
		m := volumeMount("ext4")
		change(&m)
		return m
	}
	for want, mount := range map[string]specs.Mount{
		"option errors=panic of an image is not supported":      volumeMount("ext4", "errors=panic"),
		"option discard of an image is not supported":           volumeMount("ext4", "discard"),
		"option shared of an image is not supported":            volumeMount("ext4", "shared"),
		"option X-containerd.mkdir.path=/a of an image":         volumeMount("mkdir/ext4", "X-containerd.mkdir.path=/a"),
		"option idmap of an image is not supported":             volumeMount("ext4", "idmap"),
		"options x-msb.… are for files and directories":         volumeMount("ext4", "x-msb.metadata=host"),
		"option device= is for an erofs image":                  volumeMount("ext4", "device=/a"),
		"dm-verity is for an erofs image":                       volumeMount("ext4", "X-containerd.dmverity=/v"),
		`"mkfs" is for containerd's mount manager`:              volumeMount("mkfs/ext4", "X-containerd.mkfs.size=1"),
		`"nothing" is for`:                                      volumeMount("nothing/ext4"),
		"refers to another mount, and there is none before":     changed(func(m *specs.Mount) { m.Source = "{{ mount 0 }}/x" }),
		"the mount has no source":                               changed(func(m *specs.Mount) { m.Source = "" }),
		"the source contains a NUL byte":                        changed(func(m *specs.Mount) { m.Source = "/a\x00b" }),
		"the source has 5000 bytes":                             changed(func(m *specs.Mount) { m.Source = "/" + strings.Repeat("a", 4999) }),
		"the destination is the container's root itself":        changed(func(m *specs.Mount) { m.Destination = "/" }),
		"ids are mapped for files and directories of the host":  changed(func(m *specs.Mount) { m.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }),
		`file system type "xfs" cannot be mounted in a microVM`: changed(func(m *specs.Mount) { m.Type = "xfs" }),
	} {
		if _, err := New(container(withMount(mount)), "/bundle"); !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", mount, err, want)
		}
	}
}
