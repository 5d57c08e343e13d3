// clientimages makes what containerd's tests of its client pull: stand-ins for
// public images, with what the tests look for in them.
//
//	clientimages BUSYBOX.tar DIRECTORY
//
// The first is the archive that the image command makes. The directory becomes an
// OCI image layout whose index has the images' names and tags, without a registry's.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// base is the image that the others are made from.
const base = "msb.test/busybox:latest"

// refName is the annotation that names an image in a layout's index.
const refName = "org.opencontainers.image.ref.name"

// linux is the platforms that the tests ask for, and one that they do not.
var linux = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64", Variant: "v8"},
	{OS: "linux", Architecture: "s390x"},
	{OS: "linux", Architecture: "ppc64le"},
}

var windows = []v1.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763.1"}}

// The accounts of the public busybox image, and Debian's backup.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
backup:x:34:34:backup:/var/backups:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`
	group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
mail:x:8:
www-data:x:33:
backup:x:34:
operator:x:37:
nogroup:x:65534:
`
)

// A file is an entry of a layer.
type file struct {
	name, content string
	mode          int64
}

var (
	accounts = []file{{"etc/passwd", passwd, 0o644}, {"etc/group", group, 0o644}}
	// The public image's nc ends at SIGTERM, also as process 1; Debian's does not.
	netcat = []file{{"bin/nc", "#!/bin/sh\ntrap 'exit 143' TERM\nbusybox nc \"$@\" &\nwait $!\n", 0o755}}
	// ownership's image is Debian's: it has bash and a set-user-id program.
	debian = []file{{"bin/bash", "#!/bin/sh\nexec /bin/sh \"$@\"\n", 0o755}, {"usr/bin/passwd", "#!/bin/sh\n", 0o4755}}
	volume = []file{{"test_dir/test_file", "test_content\n", 0o644}}
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: clientimages BUSYBOX.tar DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "clientimages:", err)
		os.Exit(1)
	}
}

func run(archive, dir string) error {
	busybox, err := open(archive)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	out, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for _, image := range []struct {
		name      string
		from      v1.Image
		platforms []v1.Platform
		layers    [][]file
	}{
		{"containerd/busybox:1.36", busybox, linux, [][]file{append(accounts, netcat...)}},
		{"containerd/volume-copy-up:2.2", busybox, linux, [][]file{accounts, volume, {{"test_dir/second", "second layer\n", 0o644}}}},
		{"containerd/volume-ownership:2.1", busybox, linux, [][]file{accounts, debian}},
		{"containerd/windows/nanoserver:1809", emptyImage(), windows, [][]file{{{"Files/License.txt", "none\n", 0o644}}}},
		{"pause:3.6", emptyImage(), linux, [][]file{{{"pause", "3.6\n", 0o755}}}},
		{"pause:3.10.2", emptyImage(), linux, [][]file{{{"pause", "3.10.2\n", 0o755}}}},
		{"e2e-test-images/busybox:1.29-2", emptyImage(), linux, [][]file{{{"bin/busybox", "1.29-2\n", 0o755}}}},
	} {
		index, err := build(image.name, image.from, image.platforms, image.layers)
		if err == nil {
			err = out.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: image.name}))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", image.name, err)
		}
	}
	return nil
}

// open reads the image base from the archive.
func open(archive string) (v1.Image, error) {
	dir, err := os.MkdirTemp("", "msb-layout-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := extract(archive, dir); err != nil {
		return nil, err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, descriptor := range manifest.Manifests {
		if descriptor.Annotations["io.containerd.image.name"] == base {
			image, err := index.Image(descriptor.Digest)
			if err != nil {
				return nil, err
			}
			return inMemory(image)
		}
	}
	return nil, fmt.Errorf("%s has no image %s", archive, base)
}

func emptyImage() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// inMemory is an image that does not need the directory it came from.
func inMemory(image v1.Image) (v1.Image, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	copied := emptyImage()
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(content)
		if err = errors.Join(err, content.Close()); err != nil {
			return nil, err
		}
		if copied, err = appendLayer(copied, data); err != nil {
			return nil, err
		}
	}
	return mutate.Config(copied, config.Config)
}

func appendLayer(image v1.Image, data []byte) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layer)
}

// build makes an index with an image for every platform, with one layer that
// no other image has; only the host's can run there.
func build(name string, image v1.Image, platforms []v1.Platform, layers [][]file) (v1.ImageIndex, error) {
	for _, files := range layers {
		var err error
		if image, err = appendFiles(image, files); err != nil {
			return nil, err
		}
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range platforms {
		one, err := forPlatform(name, image, platform)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return index, nil
}

func forPlatform(name string, image v1.Image, platform v1.Platform) (v1.Image, error) {
	image, err := appendFiles(image, []file{{"image", name + " for " + platform.String() + "\n", 0o644}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.OSVersion, config.Architecture, config.Variant = platform.OS, platform.OSVersion, platform.Architecture, platform.Variant
	return mutate.ConfigFile(image, config)
}

func appendFiles(image v1.Image, files []file) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return appendLayer(image, layer.Bytes())
}

func extract(archive, dir string) error {
	input, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer input.Close()
	for r := tar.NewReader(input); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		content, err := io.ReadAll(r)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		}
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			return err
		}
	}
}
