package main

import (
	"archive/tar"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The platforms that containerd's tests ask for, and one that they do not.
var (
	linux = []v1.Platform{
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"},
		{OS: "linux", Architecture: "s390x"},
		{OS: "linux", Architecture: "ppc64le"},
	}
	windows = []v1.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763.1"}}
)

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
wheel:x:10:root
www-data:x:33:
backup:x:34:
operator:x:37:
nogroup:x:65534:
`
	nobody = 65534
)

// Programs that the tests run in containers.
const (
	// The public image's nc ends at SIGTERM, also as process 1; Debian's does not.
	netcat = "#!/bin/sh\ntrap 'exit 143' TERM\nbusybox nc \"$@\" &\nwait $!\n"
	bash   = "#!/bin/sh\nexec /bin/sh \"$@\"\n"
	// stress uses so much memory for so long as the program of that name does when it is
	// called as the tests do: -m 1 --vm-bytes 100M --vm-hang 0 -t 30.
	stress = "#!/bin/sh\nhead -c ${4%M}m /dev/zero | tail -c ${4%M}m | sleep $8\n"
)

// containerd writes what containerd's own tests pull: stand-ins for public images, with
// what the tests look for in them.
func containerd(busybox, probe, output string) error {
	s, nothing, err := newImageSet(output)
	if err != nil {
		return err
	}
	root, err := rootfs(busybox, tar.TypeSymlink)
	if err != nil {
		return err
	}
	accounts := newLayer()
	accounts.file("etc/passwd", 0o644, []byte(passwd))
	accounts.file("etc/group", 0o644, []byte(group))
	system := s.add(s.add(nothing, root, nil), accounts, nil)
	s.systems(system)
	s.volumes(system)
	s.sandboxes(nothing, probe)
	for reference, platforms := range map[string][]v1.Platform{
		"containerd/windows/nanoserver:1809": windows, "e2e-test-images/busybox:1.29-2": linux,
	} {
		s.addFor(platforms, nothing, reference) // they are only pulled
	}
	return s.err
}

// systems are the images whose programs run.
func (s *imageSet) systems(system v1.Image) {
	server := newLayer()
	server.file("bin/nc", 0o755, []byte(netcat))
	s.addFor(linux, s.add(system, server, nil), "containerd/busybox:1.36")

	alpine := newLayer()
	alpine.file("etc/os-release", 0o644, []byte("NAME=\"in the place of Alpine Linux\"\n"))
	alpine.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "/bin/busybox", Mode: 0o777}, nil)
	s.addFor(linux, s.add(system, alpine, nil), "containerd/alpine:3.14.0")

	// A web server that opens its standard error, as nginx does.
	s.addFor(linux, s.add(system, nil, func(config *v1.Config) {
		config.Cmd = []string{"sh", "-c", "echo start worker processes >/proc/self/fd/2 && exec sleep 600"}
	}), "containerd/nginx:1.27.0")

	consumer := newLayer()
	consumer.file("bin/stress", 0o755, []byte(stress))
	s.addFor(linux, s.add(system, consumer, func(config *v1.Config) {
		config.Cmd = []string{"sleep", "600"}
	}), "e2e-test-images/resource-consumer:1.10")
}

// volumes are the images with volumes. The second of them is Debian's: it has bash and a
// program with the set-user-ID bit.
func (s *imageSet) volumes(system v1.Image) {
	with := func(paths ...string) func(*v1.Config) {
		return func(config *v1.Config) {
			config.Volumes = make(map[string]struct{})
			for _, path := range paths {
				config.Volumes[path] = struct{}{}
			}
		}
	}
	content := newLayer()
	for _, name := range []string{"test_dir/test_file", ":colon_prefixed/colon_prefixed_file", "C:/weird_test_dir/weird_test_file"} {
		content.file(name, 0o644, []byte("test_content\n"))
	}
	s.addFor(linux, s.add(system, content, with("/test_dir", "C:/weird_test_dir", "/:colon_prefixed")), "containerd/volume-copy-up:2.2")

	debian := newLayer()
	debian.file("bin/bash", 0o755, []byte(bash))
	debian.file("usr/bin/passwd", 0o4755, []byte("#!/bin/sh\n"))
	debian.add(tar.Header{Typeflag: tar.TypeDir, Name: "test_dir/", Mode: 0o755, Uid: nobody, Gid: nobody}, nil)
	s.addFor(linux, s.add(system, debian, with("/test_dir")), "containerd/volume-ownership:2.1")
}

// sandboxes are the images of sandbox containers, which pause.
func (s *imageSet) sandboxes(nothing v1.Image, probe string) {
	for _, reference := range []string{"pause:3.6", "pause:3.10.2"} {
		program := newLayer()
		program.copy(probe, "pause", 0o755)
		s.addFor(linux, s.add(nothing, program, func(config *v1.Config) {
			config.Entrypoint, config.Cmd = []string{"/pause", "pause"}, nil
		}), reference)
	}
}

// addFor puts an image for some platforms, each with a layer that no other image has;
// only the host's can run there.
func (s *imageSet) addFor(platforms []v1.Platform, image v1.Image, reference string) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range platforms {
		own := newLayer()
		own.file("image", 0o644, []byte(reference+" for "+platform.String()+"\n"))
		one := s.add(image, own, nil)
		if s.err == nil {
			one, s.err = configured(one, func(config *v1.ConfigFile) {
				config.OS, config.OSVersion, config.Architecture, config.Variant = platform.OS, platform.OSVersion, platform.Architecture, platform.Variant
			})
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	if s.err == nil {
		s.err = s.path.AppendIndex(index, layout.WithAnnotations(map[string]string{referenceName: reference}))
	}
}
