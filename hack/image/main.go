// image builds the project's OCI images.
//
//	image busybox BUSYBOX OUTPUT.tar         what the demo, the tests and the benchmarks
//	                                         run: one static busybox and nothing else, and
//	                                         the same as a sandbox container's, which pauses
//	image layers BUSYBOX OUTPUT.tar          the same below eleven layers of what these can do
//	image critest BUSYBOX PROBE DIRECTORY    what critest asks for
//	image containerd BUSYBOX PROBE DIRECTORY what containerd's own tests ask for
//	image tree DIRECTORY NAME PROGRAM OUTPUT.tar
//	                                         the files below a directory, which run PROGRAM
//
// An archive of an OCI image layout is for "ctr image import" and "docker load", a layout in a directory
// for the registry of the conformance tests.
package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

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
	switch arguments := os.Args[1:]; {
	case len(arguments) == 3 && arguments[0] == "busybox":
		err = busybox(arguments[1], arguments[2])
	case len(arguments) == 3 && arguments[0] == "layers":
		err = layers(arguments[1], arguments[2])
	case len(arguments) == 4 && arguments[0] == "critest":
		err = critest(arguments[1], arguments[2], arguments[3])
	case len(arguments) == 4 && arguments[0] == "containerd":
		err = containerd(arguments[1], arguments[2], arguments[3])
	case len(arguments) == 5 && arguments[0] == "tree":
		err = tree(arguments[1], arguments[2], arguments[3], arguments[4])
	default:
		fmt.Fprintln(os.Stderr, "usage: image busybox BUSYBOX OUTPUT.tar\n       image layers BUSYBOX OUTPUT.tar\n       image critest BUSYBOX PROBE DIRECTORY\n       image containerd BUSYBOX PROBE DIRECTORY\n       image tree DIRECTORY NAME PROGRAM OUTPUT.tar")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func busybox(program, output string) error {
	image, err := scratch()
	if err != nil {
		return err
	}
	layer, err := rootfs(program, tar.TypeSymlink)
	if err != nil {
		return err
	}
	if image, err = layer.on(image); err != nil {
		return err
	}
	pause, err := configured(image, func(config *v1.ConfigFile) { config.Config.Cmd = []string{"/bin/tail", "-f", "/dev/null"} })
	if err != nil {
		return err
	}
	return archiveOf(output, map[string]v1.Image{name: image, pauseName: pause})
}

// tree makes an image of the files below a directory, root's and without their times: the
// same files are the same image.
func tree(dir, name, program, output string) error {
	image, err := scratch()
	if err != nil {
		return err
	}
	files := newLayer()
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if mode := int64(info.Mode().Perm()); entry.IsDir() {
			files.directory(relative, mode)
		} else {
			files.copy(path, relative, mode)
		}
		return files.err
	})
	if err != nil {
		return err
	}
	if image, err = files.on(image); err != nil {
		return err
	}
	image, err = configured(image, func(config *v1.ConfigFile) {
		config.Config.Entrypoint, config.Config.Cmd = []string{program}, nil
	})
	if err != nil {
		return err
	}
	return archiveOf(output, map[string]v1.Image{name: image})
}

// archiveOf writes an archive of images by their references.
func archiveOf(output string, images map[string]v1.Image) error {
	dir, err := os.MkdirTemp("", "msb-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		// containerd takes the whole reference from its own annotation.
		if err := put(path, images[name], "io.containerd.image.name", name); err != nil {
			return err
		}
	}
	if err := describe(dir, images); err != nil {
		return err
	}
	return archive(dir, output)
}

// describe writes what "docker load" reads besides: before containerd's image store it
// takes no OCI image layout, but the blobs of one by this list.
func describe(dir string, images map[string]v1.Image) error {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	blob := func(digest v1.Hash) string { return filepath.Join("blobs", digest.Algorithm, digest.Hex) }
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(images)) {
		manifest, err := images[name].Manifest()
		if err != nil {
			return err
		}
		image := entry{Config: blob(manifest.Config.Digest), RepoTags: []string{name}}
		for _, layer := range manifest.Layers {
			image.Layers = append(image.Layers, blob(layer.Digest))
		}
		entries = append(entries, image)
	}
	list, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), list, 0o644)
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
