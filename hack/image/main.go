// image builds the OCI images that the demo, the tests and the benchmarks run.
//
//	image BUSYBOX OUTPUT.tar
//	image BUSYBOX PROBE DIRECTORY
//
// The first are one static busybox and nothing else, as an archive of an OCI image
// layout, for "ctr image import". The second are the images that critest asks for,
// as an OCI image layout in a directory, for the registry of the conformance tests.
package main

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// References of the images of the archive: one to run commands in, and the same for
// sandbox containers, which pause.
const (
	name      = "msb.test/busybox:latest"
	pauseName = "msb.test/pause:sandbox"
)

func main() {
	var err error
	switch len(os.Args) {
	case 3:
		err = run(os.Args[1], os.Args[2])
	case 4:
		err = conformance(os.Args[1], os.Args[2], os.Args[3])
	default:
		fmt.Fprintln(os.Stderr, "usage: image BUSYBOX OUTPUT.tar, or image BUSYBOX PROBE DIRECTORY")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(busybox, output string) error {
	image, err := scratch()
	if err != nil {
		return err
	}
	layer, err := rootfs(busybox, tar.TypeSymlink)
	if err != nil {
		return err
	}
	if image, err = layer.on(image); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "msb-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// containerd takes the whole reference from its own annotation.
	if err := put(path, image, "io.containerd.image.name", name); err != nil {
		return err
	}
	pause, err := configured(image, func(config *v1.ConfigFile) { config.Config.Cmd = []string{"/bin/sleep", "infinity"} })
	if err != nil {
		return err
	}
	if err := put(path, pause, "io.containerd.image.name", pauseName); err != nil {
		return err
	}
	return archive(dir, output)
}

// put adds an image with an annotation that names it.
func put(path layout.Path, image v1.Image, annotation, name string) error {
	return path.AppendImage(image, layout.WithAnnotations(map[string]string{annotation: name}),
		layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
}

// archive writes the files below dir as a tar file.
func archive(dir, output string) (err error) {
	file, err := os.Create(output)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
	}()
	w := tar.NewWriter(file)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: relative, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	return w.Close()
}
