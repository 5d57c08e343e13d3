package image

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

func erofs(source string, options ...string) mount.Mount {
	return mount.Mount{Type: "erofs", Source: source, Options: append([]string{"ro", "loop"}, options...)}
}

func ext4(source string, options ...string) mount.Mount {
	return mount.Mount{Type: "ext4", Source: source, Options: append(options, "loop")}
}

func overlayOf(options ...string) mount.Mount {
	return mount.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: options}
}

func layer(source string) Image { return Image{Source: source, Type: EROFS, ReadOnly: true} }

// What containerd's snapshotters erofs and blockfile hand over (plugins/snapshots).
func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		mounts  []mount.Mount
		want    *Root
		onGuest bool
	}{
		"none":         {nil, nil, false},
		"overlayfs":    {[]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b"}}}, nil, false},
		"devmapper":    {[]mount.Mount{{Type: "ext4", Source: "/dev/mapper/x", Options: []string{"rw"}}}, nil, false},
		"a view":       {[]mount.Mount{erofs("/l")}, &Root{Images: []Image{layer("/l")}, ReadOnly: true}, true},
		"blockfile":    {[]mount.Mount{ext4("/b", "rw")}, &Root{Images: []Image{{Source: "/b", Type: Ext4}}}, true},
		"blockfile ro": {[]mount.Mount{ext4("/b", "ro")}, &Root{Images: []Image{{Source: "/b", Type: Ext4, ReadOnly: true}}, ReadOnly: true}, true},
		"block mode": {
			[]mount.Mount{
				ext4("/rw", "rw"), erofs("/l1"), erofs("/l0"),
				overlayOf("X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
					"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}", "index=off"),
			},
			&Root{
				Images:  []Image{{Source: "/rw", Type: Ext4}, layer("/l1"), layer("/l0")},
				Make:    []NewDir{{Dir: Dir{0, "upper"}, Mode: 0o755}, {Dir: Dir{0, "work"}, Mode: 0o755}},
				Overlay: &Overlay{Lower: []Dir{{Image: 1}, {Image: 2}}, Upper: &Dir{0, "upper"}, Work: &Dir{0, "work"}, Options: []string{"index=off"}},
			}, true,
		},
		"one layer": {
			[]mount.Mount{ext4("/rw", "rw"), erofs("/l"), overlayOf("workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ mount 1 }}")},
			&Root{
				Images:  []Image{{Source: "/rw", Type: Ext4}, layer("/l")},
				Overlay: &Overlay{Lower: []Dir{{Image: 1}}, Upper: &Dir{0, "upper"}, Work: &Dir{0, "work"}},
			}, true,
		},
		"no layer": {
			[]mount.Mount{
				ext4("/rw", "rw"),
				{Type: "format/mkdir/bind", Source: "{{ mount 0 }}/upper", Options: []string{"X-containerd.mkdir.path={{ mount 0 }}/upper:0755:1:2", "rw", "rbind"}},
			},
			&Root{
				Images: []Image{{Source: "/rw", Type: Ext4}},
				Make:   []NewDir{{Dir: Dir{0, "upper"}, Mode: 0o755, UID: 1, GID: 2}}, Dir: Dir{0, "upper"},
			}, true,
		},
		"a view of many": {
			[]mount.Mount{erofs("/l1"), erofs("/l0"), overlayOf("ro", "lowerdir={{ overlay 0 1 }}")},
			&Root{Images: []Image{layer("/l1"), layer("/l0")}, Overlay: &Overlay{Lower: []Dir{{Image: 0}, {Image: 1}}}, ReadOnly: true}, true,
		},
		"a range that goes down": {
			[]mount.Mount{erofs("/l0"), erofs("/l1"), overlayOf("lowerdir={{ overlay 1 0 }}")},
			&Root{Images: []Image{layer("/l0"), layer("/l1")}, Overlay: &Overlay{Lower: []Dir{{Image: 1}, {Image: 0}}}}, true,
		},
		"flattened": {
			[]mount.Mount{erofs("/meta", "device=/l0", "device=/l1"), {Type: "format/bind", Source: "{{ mount 0 }}", Options: []string{"ro", "rbind"}}},
			&Root{Images: []Image{{Source: "/meta", Type: EROFS, ReadOnly: true, Devices: []string{"/l0", "/l1"}}}, ReadOnly: true}, true,
		},
		"verity": {
			[]mount.Mount{erofs("/l", "X-containerd.dmverity=/l.dmverity")},
			&Root{Images: []Image{{Source: "/l", Type: EROFS, ReadOnly: true, Verity: "/l.dmverity"}}, ReadOnly: true}, true,
		},
		"an upper directory of the host": {
			[]mount.Mount{erofs("/l"), overlayOf("workdir=/s/work", "upperdir=/s/fs", "lowerdir={{ mount 0 }}")},
			&Root{
				Images:  []Image{layer("/l")},
				Overlay: &Overlay{Lower: []Dir{{Image: 0}}, Upper: &Dir{OnHost, "/s/fs"}, Work: &Dir{OnHost, "/s/work"}},
			}, false,
		},
		"mapped owners": {
			[]mount.Mount{ext4("/rw", "rw"), erofs("/l"), overlayOf("workdir={{ mount 0 }}/w", "upperdir={{ mount 0 }}/u", "uidmap=0:1:2", "gidmap=0:3:4", "lowerdir={{ mount 1 }}")},
			&Root{
				Images:  []Image{{Source: "/rw", Type: Ext4}, layer("/l")},
				Overlay: &Overlay{Lower: []Dir{{Image: 1}}, Upper: &Dir{0, "u"}, Work: &Dir{0, "w"}, UIDs: "0:1:2", GIDs: "0:3:4"},
			}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Plan(c.mounts)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v, %v", got, err)
			}
			if got != nil && got.InGuest() != c.onGuest {
				t.Errorf("in the guest: %v", got.InGuest())
			}
		})
	}
}

func TestPlanRefused(t *testing.T) {
	var many []mount.Mount
	for i := range maxLower + 1 {
		many = append(many, erofs(fmt.Sprintf("/l%d", i)))
	}
	many = append(many, overlayOf(fmt.Sprintf("lowerdir={{ overlay 0 %d }}", maxLower)))
	after := func(last mount.Mount) []mount.Mount { return []mount.Mount{ext4("/rw", "rw"), erofs("/l"), last} }
	for name, c := range map[string]struct {
		mounts []mount.Mount
		want   string
	}{
		"not transformed":             {[]mount.Mount{{Type: "mkfs/ext4", Source: "/rw", Options: []string{"loop"}}}, `"mkfs" is for containerd's mount manager`},
		"an unknown transform":        {[]mount.Mount{{Type: "magic/erofs", Source: "/l"}}, `"magic" is for containerd's mount manager`},
		"something beside":            {[]mount.Mount{erofs("/l"), {Type: "xfs", Source: "/x"}, overlayOf("lowerdir={{ mount 0 }}")}, "of nothing else beside them"},
		"an unknown end":              {[]mount.Mount{erofs("/l"), {Type: "xfs", Source: "/x"}}, "makes an overlay or a bind of images"},
		"verity of many files":        {[]mount.Mount{erofs("/l", "device=/d", "X-containerd.dmverity=/v")}, "an erofs image in one file, and /l is none"},
		"verity of ext4":              {[]mount.Mount{ext4("/e", "X-containerd.dmverity=/v")}, "an erofs image in one file, and /e is none"},
		"an unknown option":           {[]mount.Mount{erofs("/l", "dax")}, `option "dax" of an image`},
		"a relative image":            {[]mount.Mount{erofs("l")}, `the source "l" is not an absolute path`},
		"a relative device":           {[]mount.Mount{erofs("/l", "device=d")}, `option "device=d" does not name an absolute path`},
		"an unknown option of a bind": {after(mount.Mount{Type: "bind", Source: "{{ mount 0 }}", Options: []string{"slave"}}), `option "slave" of a bind`},
		"a mount after it":            {after(overlayOf("lowerdir={{ mount 2 }}")), "there is no mount 2 before this one"},
		"a mount before all":          {after(overlayOf("lowerdir={{ mount -1 }}")), "there is no mount -1"},
		"a range to nowhere":          {after(overlayOf("lowerdir={{ overlay 0 1000000000 }}")), "there is no mount 2"},
		"a template of nothing":       {after(overlayOf("lowerdir={{ source 0 }}")), `function "source" not defined`},
		"a broken template":           {after(overlayOf("lowerdir={{ mount 0")), "unclosed action"},
		"no lower directory":          {after(overlayOf("upperdir={{ mount 0 }}/u", "workdir={{ mount 0 }}/w")), "no lower directory"},
		"an empty lower directory":    {after(overlayOf("lowerdir={{ mount 1 }}::")), `"" is not an absolute path`},
		"too many":                    {many, "an overlay of 501 lower directories, and Linux takes 500"},
		"an upper directory alone":    {after(overlayOf("lowerdir={{ mount 1 }}", "upperdir={{ mount 0 }}/u")), "one of upperdir and workdir"},
		"two file systems":            {after(overlayOf("lowerdir={{ mount 1 }}", "upperdir={{ mount 0 }}/u", "workdir=/w")), "in different file systems"},
		"an upper read-only layer":    {after(overlayOf("lowerdir={{ mount 1 }}", "upperdir={{ mount 1 }}/u", "workdir={{ mount 1 }}/w")), "image /l, which is read-only"},
		"a directory in a layer":      {after(overlayOf("X-containerd.mkdir.path={{ mount 1 }}/u", "lowerdir={{ mount 1 }}")), "made in image /l, which is read-only"},
		"owners mapped by half":       {after(overlayOf("lowerdir={{ mount 1 }}", "uidmap=0:1:2")), "one of uidmap and gidmap"},
		"a directory above":           {after(overlayOf("lowerdir={{ mount 1 }}/../../etc")), "is not below the mount"},
		"a name that goes on":         {after(overlayOf("lowerdir={{ mount 1 }}x")), "is not below the mount"},
		"two mounts in one":           {after(overlayOf("lowerdir={{ mount 1 }}/{{ mount 0 }}")), "names more than one mount"},
		"a mode of more than modes":   {after(overlayOf("X-containerd.mkdir.path={{ mount 0 }}/u:4755", "lowerdir={{ mount 1 }}")), "does not name a directory to make"},
		"an owner without a group":    {after(overlayOf("X-containerd.mkdir.path={{ mount 0 }}/u:0755:1", "lowerdir={{ mount 1 }}")), "does not name a directory to make"},
		"lowerdir+":                   {after(overlayOf("lowerdir+={{ mount 1 }}")), "name all directories with lowerdir="},
		"a marker":                    {after(overlayOf("lowerdir=\x000\x00")), "has a zero byte"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Plan(c.mounts)
			if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
