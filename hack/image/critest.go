package main

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// The annotation of OCI image layouts that names an image.
const referenceName = "org.opencontainers.image.ref.name"

// pgrep and ipcs are what critest runs in containers and busybox may not have.
// ipcs prints the identifiers of the shared memory segments and nothing else.
const (
	pgrep = "#!/bin/sh\nexec pidof \"$@\"\n"
	ipcs  = "#!/bin/sh\nexec awk 'NR > 1 { print $2 }' /proc/sysvipc/shm\n"
)

// nginx is what critest takes for one: a web server with a process of that name,
// whose command line says "master process", and a file with its pid.
const nginx = `#!/bin/sh
trap exit TERM QUIT
echo "httpd on port $1"
echo $$ >/var/run/nginx.pid
httpd -f -p "$1" -h /www &
wait
`

// An imageSet is an image layout that is being written. The first error stays.
type imageSet struct {
	path layout.Path
	err  error
}

// newImageSet begins a layout in a directory, whatever was there, and returns an image
// without layers to begin others with.
func newImageSet(output string) (*imageSet, v1.Image, error) {
	if err := os.RemoveAll(output); err != nil {
		return nil, nil, err
	}
	path, err := layout.Write(output, empty.Index)
	if err != nil {
		return nil, nil, err
	}
	nothing, err := scratch()
	return &imageSet{path: path}, nothing, err
}

// add puts an image of another one, a layer if there is one, and changes to its
// configuration under each of the references: a repository and a tag, no registry.
func (s *imageSet) add(base v1.Image, added *layer, change func(config *v1.Config), references ...string) v1.Image {
	image := base
	if added != nil && s.err == nil {
		image, s.err = added.on(image)
	}
	if change != nil && s.err == nil {
		image, s.err = configured(image, func(config *v1.ConfigFile) { change(&config.Config) })
	}
	for _, reference := range references {
		if s.err == nil {
			s.err = put(s.path, image, referenceName, reference)
		}
	}
	return image
}

// critest writes the images that critest's specs name, below the repositories of
// its registries. What only has to exist is busybox and a file.
func critest(busybox, probe, output string) error {
	s, nothing, err := newImageSet(output)
	if err != nil {
		return err
	}
	root, err := shellRootfs(busybox)
	if err != nil {
		return err
	}
	shell := s.add(nothing, root, nil, "e2e-test-images/busybox:1.29-2")
	s.pause(nothing, probe)
	s.servers(shell)
	s.users(shell, probe)
	s.plain(shell)
	return s.err
}

// pause are the image of pods' sandboxes, and the same with another identity for the
// specs that pull and remove it.
func (s *imageSet) pause(nothing v1.Image, probe string) {
	program := newLayer()
	program.copy(probe, "probe", 0o755)
	sandbox := s.add(nothing, program, func(config *v1.Config) {
		config.Entrypoint, config.Cmd = []string{"/probe", "pause"}, nil
	}, "pause:sandbox")
	s.add(sandbox, nil, func(config *v1.Config) { config.Labels = map[string]string{"of": "critest"} }, "pause:3.9")
}

// servers are the web servers.
func (s *imageSet) servers(shell v1.Image) {
	for reference, port := range map[string]string{
		"e2e-test-images/nginx:1.14-2":                     "80",
		"e2e-test-images/httpd:2.4.39-4":                   "80",
		"k8s-staging-cri-tools/hostnet-nginx-amd64:latest": "12003",
	} {
		server := newLayer()
		server.directory("www", 0o755)
		server.file("www/index.html", 0o644, []byte("critest\n"))
		server.file("bin/nginx", 0o755, []byte(nginx))
		s.add(shell, server, func(config *v1.Config) {
			config.Entrypoint, config.Cmd = []string{"/bin/nginx", port, "master process"}, nil
		}, reference)
	}
}

// users are the images with users, groups and a program with the set-user-ID bit.
func (s *imageSet) users(shell v1.Image, probe string) {
	for name, user := range map[string]string{
		"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004",
	} {
		s.add(shell, nil, func(config *v1.Config) { config.User = user }, "k8s-staging-cri-tools/test-image-user-"+name+":latest")
	}
	accounts := newLayer()
	accounts.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n"))
	accounts.file("etc/group", 0o644, []byte("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"))
	s.add(shell, accounts, func(config *v1.Config) { config.User = "1000" }, "k8s-staging-cri-tools/test-image-predefined-group:latest")

	program := newLayer()
	program.copy(probe, "probe", 0o4755)
	s.add(shell, program, func(config *v1.Config) {
		config.Entrypoint, config.Cmd = []string{"/bin/sh", "-c", `echo "Effective uid: $(/probe uid)"`}, nil
	}, "e2e-test-images/nonewprivs:1.3")
}

// plain are the images that are only pulled, listed and removed.
func (s *imageSet) plain(shell v1.Image) {
	const prefix = "k8s-staging-cri-tools/test-image-"
	for file, references := range map[string][]string{
		"1":      {prefix + "1:latest"},
		"2":      {prefix + "2:latest"},
		"3":      {prefix + "3:latest"},
		"latest": {prefix + "latest:latest"},
		"test":   {prefix + "tag:test"},
		"all":    {prefix + "tag:all"},
		"same":   {prefix + "tags:1", prefix + "tags:2", prefix + "tags:3"},
	} {
		content := newLayer()
		content.file(file, 0o644, nil)
		s.add(shell, content, nil, references...)
	}
}

// shellRootfs is rootfs with links that can be masked one by one, with the libraries
// that busybox needs, and with what critest runs besides.
func shellRootfs(busybox string) (*layer, error) {
	l, err := rootfs(busybox, tar.TypeLink)
	if err != nil {
		return nil, err
	}
	l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "var/run", Linkname: "/run", Mode: 0o777}, nil)
	l.file("bin/pgrep", 0o755, []byte(pgrep))
	l.file("bin/ipcs", 0o755, []byte(ipcs))
	libraries, err := libraries(busybox)
	if err != nil {
		return nil, err
	}
	for _, path := range libraries {
		name := strings.TrimPrefix(path, "/")
		l.directory(filepath.Dir(name), 0o755)
		l.copy(path, name, 0o755)
	}
	return l, nil
}

// libraries are the interpreter and the shared libraries of a program, none of a
// static one.
func libraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []string
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			name := make([]byte, segment.Filesz)
			if _, err := segment.ReadAt(name, 0); err != nil {
				return nil, err
			}
			found = append(found, strings.TrimRight(string(name), "\x00"))
		}
	}
	names, err := file.ImportedLibraries()
	if err != nil || len(found) == 0 {
		return nil, err
	}
	for _, name := range names {
		matches, _ := filepath.Glob("/lib*/" + name)
		more, _ := filepath.Glob("/lib/*/" + name)
		matches = append(matches, more...)
		if len(matches) == 0 {
			return nil, fmt.Errorf("%s needs %s, which is not in /lib", program, name)
		}
		found = append(found, matches[0])
	}
	return found, nil
}
