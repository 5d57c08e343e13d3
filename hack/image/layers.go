package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// layersName is the image of twelve layers. Its files are what a root file system can get
// wrong that is put together of layers.
const layersName = "msb.test/layers:latest"

// What a layer removes of those below it (OCI image specification, layer.md).
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// layers writes the archive of the image.
func layers(busybox, output string) error {
	image, err := scratch()
	if err != nil {
		return err
	}
	root, err := rootfs(busybox, tar.TypeSymlink)
	if err != nil {
		return err
	}
	for _, one := range []*layer{
		root, plainFiles(), links(), attributes(), specials(), toBeChanged(), removed(), opaques(), replaced(), changed(), large(), again(),
	} {
		if image, err = one.on(image); err != nil {
			return err
		}
	}
	return archiveOf(output, map[string]v1.Image{layersName: image})
}

// age is the time of the image's files, before their layers' own.
var age = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// A dated layer is one whose entries have owners and times, and parents, as those of
// builders have.
type dated struct {
	*layer
	made map[string]bool // directories that are in the layer
	time time.Time
}

func newDated(number int) dated {
	return dated{layer: newLayer(), made: make(map[string]bool), time: age.Add(time.Duration(number) * time.Hour)}
}

// put adds an entry and its parents.
func (t dated) put(header tar.Header, content []byte) {
	name := path.Clean(header.Name)
	if parent := path.Dir(name); parent != "." && !t.made[parent] {
		t.put(tar.Header{Typeflag: tar.TypeDir, Name: parent, Mode: 0o755}, nil)
	}
	if header.Typeflag == tar.TypeDir {
		t.made[name] = true
		header.Name = name + "/"
	}
	if header.ModTime.IsZero() {
		header.ModTime = t.time
	}
	header.Format = tar.FormatPAX
	t.add(header, content)
}

func (t dated) text(name, content string) {
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content))
}

// remove removes what a layer below has.
func (t dated) remove(name string) {
	t.text(path.Join(path.Dir(name), whiteout+path.Base(name)), "")
}

// plainFiles have owners, modes, times, and names of many kinds.
func plainFiles() *layer {
	t := newDated(1)
	t.text("plain/file", "a file\n")
	t.text("plain/empty", "")
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/setuid", Mode: 0o4755}, []byte("#!/bin/sh\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/setgid", Mode: 0o2711, Gid: 50}, []byte("#!/bin/sh\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/none", Mode: 0}, []byte("for root alone\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/owned", Mode: 0o640, Uid: 1000, Gid: 1001}, []byte("somebody's\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/high", Mode: 0o600, Uid: 1 << 30, Gid: 1<<30 + 1}, []byte("of a high user\n"))
	t.put(tar.Header{Typeflag: tar.TypeDir, Name: "plain/sticky", Mode: 0o1777}, nil)
	t.put(tar.Header{Typeflag: tar.TypeDir, Name: "plain/group", Mode: 0o2770, Uid: 1000, Gid: 1001}, nil)
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/old", Mode: 0o644, ModTime: time.Unix(1, 0)}, []byte("of 1970\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "plain/new", Mode: 0o644, ModTime: time.Unix(1<<32+1, 0)}, []byte("of 2106\n"))
	t.text("plain/"+strings.Repeat("n", 254), "a long name\n") // mkfs.erofs 1.5 takes no longer one
	t.text(path.Join("plain", strings.Repeat("a-long-directory/", 20), "file"), "a long path\n")
	t.text("plain/größe, 大きさ \t\"'\\", "a name of many characters\n")
	return t.layer
}

// links are hard links within one layer, and symbolic ones.
func links() *layer {
	t := newDated(2)
	t.text("links/one", "of three names\n")
	for _, name := range []string{"links/two", "links/below/three"} {
		t.put(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: "links/one", Mode: 0o644}, nil)
	}
	for _, link := range []struct{ name, target string }{
		{"relative", "one"},
		{"absolute", "/links/one"},
		{"up", "../../../../links/one"},
		{"dangling", "nowhere"},
		{"loop", "loop"},
		{"directory", "below"},
		{"long", strings.Repeat("t", 1000)},
	} {
		t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: "links/" + link.name, Linkname: link.target, Mode: 0o777}, nil)
	}
	t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: "links/owned", Linkname: "one", Mode: 0o777, Uid: 1000, Gid: 1001}, nil)
	return t.layer
}

// attributes are extended ones, and a program's capabilities.
func attributes() *layer {
	t := newDated(3)
	with := func(header tar.Header, attributes map[string]string) {
		header.PAXRecords = make(map[string]string)
		for name, value := range attributes {
			header.PAXRecords["SCHILY.xattr."+name] = value
		}
		t.put(header, nil)
	}
	with(tar.Header{Typeflag: tar.TypeReg, Name: "attributes/user", Mode: 0o644}, map[string]string{
		"user.text": "a value", "user.bytes": "\x01\xff\x02", "user.long": strings.Repeat("v", 500),
	})
	with(tar.Header{Typeflag: tar.TypeDir, Name: "attributes/directory", Mode: 0o755}, map[string]string{"user.of": "a directory"})
	with(tar.Header{Typeflag: tar.TypeReg, Name: "attributes/capable", Mode: 0o755}, map[string]string{"security.capability": capability(10)})
	return t.layer
}

// capability is what gives a program one, permitted and effective
// (include/uapi/linux/capability.h, struct vfs_cap_data).
func capability(number int) string {
	const revision2, effective = 0x02000000, 1
	var data bytes.Buffer
	for _, word := range []uint32{revision2 | effective, 1 << number, 0, 0, 0} {
		_ = binary.Write(&data, binary.LittleEndian, word)
	}
	return data.String()
}

// specials are devices and a FIFO. A character device 0:0 is not among them: that is a
// whiteout of overlayfs.
func specials() *layer {
	t := newDated(4)
	t.put(tar.Header{Typeflag: tar.TypeChar, Name: "specials/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, nil)
	t.put(tar.Header{Typeflag: tar.TypeChar, Name: "specials/high", Mode: 0o600, Devmajor: 300, Devminor: 70000}, nil)
	t.put(tar.Header{Typeflag: tar.TypeBlock, Name: "specials/disk", Mode: 0o660, Gid: 6, Devmajor: 8, Devminor: 1}, nil)
	t.put(tar.Header{Typeflag: tar.TypeFifo, Name: "specials/fifo", Mode: 0o620, Uid: 1000}, nil)
	return t.layer
}

// toBeChanged is what the layers above it remove, replace and change.
func toBeChanged() *layer {
	t := newDated(5)
	for _, name := range []string{
		"removed/file", "removed/directory/file", "removed/directory/below/file", "removed/again", "removed/stays",
		"opaque/file", "opaque/directory/file", "opaque/same",
		"replaced/directory/file", "replaced/file", "replaced/by-link", "replaced/parent/by-link/file",
		"changed/mode", "changed/owner", "changed/content", "changed/directory/file", "changed/one",
	} {
		t.text(name, "of the fifth layer: "+name+"\n")
	}
	t.put(tar.Header{Typeflag: tar.TypeLink, Name: "changed/other", Linkname: "changed/one", Mode: 0o644}, nil)
	t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: "replaced/link", Linkname: "file", Mode: 0o777}, nil)
	return t.layer
}

// removed has whiteouts: of files, of a directory, and of one of two names of a file.
func removed() *layer {
	t := newDated(6)
	for _, name := range []string{"removed/file", "removed/directory", "removed/again", "changed/other", "links/two"} {
		t.remove(name)
	}
	return t.layer
}

// opaques has a directory that hides what is below it, but for what it has itself.
func opaques() *layer {
	t := newDated(7)
	t.text("opaque/"+opaque, "")
	t.text("opaque/same", "of the seventh layer\n")
	t.text("opaque/own", "of the seventh layer\n")
	return t.layer
}

// replaced has things of other types than what is below.
func replaced() *layer {
	t := newDated(8)
	t.text("replaced/directory", "was a directory\n")
	t.text("replaced/file/file", "was a file\n")
	t.text("replaced/link/file", "was a link\n")
	t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: "replaced/by-link", Linkname: "directory", Mode: 0o777}, nil)
	t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: "replaced/parent/by-link", Linkname: "..", Mode: 0o777}, nil)
	return t.layer
}

// changed has other modes, owners and contents.
func changed() *layer {
	t := newDated(9)
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "changed/mode", Mode: 0o4711}, []byte("of the fifth layer: changed/mode\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "changed/owner", Mode: 0o644, Uid: 7, Gid: 8}, []byte("of the fifth layer: changed/owner\n"))
	t.text("changed/content", "of the ninth layer, and longer than before\n")
	t.put(tar.Header{Typeflag: tar.TypeDir, Name: "changed/directory", Mode: 0o700, Uid: 9, Gid: 10}, nil)
	return t.layer
}

// large has files of many blocks: one of 1 MiB, and one that is mostly a hole.
func large() *layer {
	t := newDated(10)
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "large/mebibyte", Mode: 0o644}, content)
	zeros := make([]byte, 300_001)
	zeros[len(zeros)-1] = 1
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "large/zeros", Mode: 0o644}, zeros)
	return t.layer
}

// again has what layers below have removed.
func again() *layer {
	t := newDated(11)
	t.text("removed/again", "of the twelfth layer\n")
	t.text("removed/directory/new", "of the twelfth layer\n")
	return t.layer
}
