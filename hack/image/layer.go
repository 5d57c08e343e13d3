package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A layer is a tar archive that is being written. The first error stays.
type layer struct {
	content bytes.Buffer
	tar     *tar.Writer
	err     error
}

func newLayer() *layer {
	l := new(layer)
	l.tar = tar.NewWriter(&l.content)
	return l
}

func (l *layer) add(header tar.Header, content []byte) {
	header.Size = int64(len(content))
	if l.err == nil {
		l.err = l.tar.WriteHeader(&header)
	}
	if l.err == nil {
		_, l.err = l.tar.Write(content)
	}
}

func (l *layer) file(name string, mode int64, content []byte) {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

func (l *layer) directory(name string, mode int64) {
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

// copy adds a file of the machine.
func (l *layer) copy(path, name string, mode int64) {
	content, err := os.ReadFile(path)
	if err != nil && l.err == nil {
		l.err = err
	}
	l.file(name, mode, content)
}

// on makes an image of another one and this layer.
func (l *layer) on(image v1.Image) (v1.Image, error) {
	if l.err != nil {
		return nil, l.err
	}
	if err := l.tar.Close(); err != nil {
		return nil, err
	}
	added, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(l.content.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, added)
}

// scratch is an image without layers.
func scratch() (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return configured(image, func(config *v1.ConfigFile) {
		config.OS, config.Architecture = "linux", "amd64"
		config.Config.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
		config.Config.Cmd = []string{"/bin/sh"}
	})
}

func configured(image v1.Image, change func(config *v1.ConfigFile)) (v1.Image, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	change(config)
	return mutate.ConfigFile(image, config)
}

// rootfs is a layer of busybox, a link of a type for each of its applets, and the
// directories and accounts that programs expect.
func rootfs(busybox string, link byte) (*layer, error) {
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the applets of %s: %w", busybox, err)
	}
	l := newLayer()
	for _, dir := range []string{"bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin", "var"} {
		l.directory(dir, 0o755)
	}
	l.directory("tmp", 0o1777)
	l.copy(busybox, "bin/busybox", 0o755)
	target := "busybox"
	if link == tar.TypeLink {
		target = "bin/busybox" // a hard link's is from the root
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			l.add(tar.Header{Typeflag: link, Name: "bin/" + applet, Linkname: target, Mode: 0o777}, nil)
		}
	}
	l.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	l.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	return l, nil
}
