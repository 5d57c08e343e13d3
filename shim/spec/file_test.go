package spec

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func withAnnotation(name, value string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		if s.Annotations == nil {
			s.Annotations = make(map[string]string)
		}
		s.Annotations[name] = value
	}
}

func withOptions(options ...string) func(*specs.Spec) {
	return withMount(specs.Mount{Type: "bind", Source: "/s", Destination: "/d", Options: options})
}

func TestFileOptions(t *testing.T) {
	for name, c := range map[string]struct {
		change []func(*specs.Spec)
		want   FileOptions
	}{
		"default":             {nil, FileOptions{}},
		"host":                {[]func(*specs.Spec){withOptions("x-msb.metadata=host")}, FileOptions{HostMetadata: true}},
		"guest":               {[]func(*specs.Spec){withOptions("x-msb.metadata=guest")}, FileOptions{Asked: "x-msb.metadata=guest"}},
		"follow":              {[]func(*specs.Spec){withOptions("x-msb.update=follow")}, FileOptions{Follow: true, Asked: "x-msb.update=follow"}},
		"pinned":              {[]func(*specs.Spec){withOptions("x-msb.update=pinned")}, FileOptions{}},
		"for others":          {[]func(*specs.Spec){withOptions("x-systemd.automount", "X-mount.mkdir")}, FileOptions{}},
		"follow, read-only":   {[]func(*specs.Spec){withOptions("x-msb.update=follow", "x-msb.metadata=host", "ro")}, FileOptions{HostMetadata: true, Follow: true, Asked: "x-msb.update=follow"}},
		"annotations":         {[]func(*specs.Spec){withAnnotation(AnnotationMetadata, "host"), withOptions()}, FileOptions{HostMetadata: true}},
		"no sockets":          {[]func(*specs.Spec){withOptions("x-msb.sockets=off")}, FileOptions{NoSockets: true, AskedOfDir: "x-msb.sockets=off"}},
		"sockets":             {[]func(*specs.Spec){withAnnotation(AnnotationSockets, "off"), withOptions("x-msb.sockets=on")}, FileOptions{}},
		"no sockets at all":   {[]func(*specs.Spec){withAnnotation(AnnotationSockets, "off"), withOptions()}, FileOptions{NoSockets: true}},
		"mount over them all": {[]func(*specs.Spec){withAnnotation(AnnotationUpdate, "follow"), withOptions("x-msb.update=pinned")}, FileOptions{}},
	} {
		t.Run(name, func(t *testing.T) {
			if len(c.change) == 0 {
				c.change = append(c.change, withOptions())
			}
			plan, err := New(container(c.change...), "/bundle")
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.Binds[0].Files; got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			data, err := plan.Guest(Places{Rootfs: "/r", Cgroup: "/c", Network: "/n", Binds: []string{"/x"}})
			if err != nil || strings.Contains(strings.ToLower(string(data)), `"x-`) {
				t.Errorf("options of others reach runc: %s, %v", data, err)
			}
		})
	}
}

func TestFileOptionsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		says   string
	}{
		"unknown option":     {withOptions("x-msb.uid=3"), `unknown option "x-msb.uid"; msb has x-msb.metadata=guest|host, x-msb.update=pinned|follow, x-msb.sockets=on|off`},
		"some sockets":       {withOptions("x-msb.sockets=some"), "neither on nor off"},
		"no value":           {withOptions("x-msb.update"), "neither pinned nor follow"},
		"another value":      {withOptions("x-msb.metadata=none"), "neither guest nor host"},
		"together":           {withOptions("x-msb.metadata=host", "x-msb.update=follow"), "leave out x-msb.metadata=host"},
		"annotation's value": {withAnnotation(AnnotationMetadata, "true"), "neither guest nor host"},
		"on tmpfs":           {withMount(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/d", Options: []string{"x-msb.metadata=host"}}), "files of the host"},
		"an option of 1 MiB": {withOptions(strings.Repeat("o", 1<<20)), "1048576 bytes"},
		"a long source":      {withMount(specs.Mount{Type: "bind", Source: "/" + strings.Repeat("s", 4095), Destination: "/d"}), "4096 bytes"},
		"a long destination": {withMount(specs.Mount{Type: "bind", Source: "/s", Destination: "/" + strings.Repeat("d", 4095)}), "4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(container(c.change), "/bundle")
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 500 {
				t.Errorf("New = %.600v", err)
			}
		})
	}
}

// FuzzPlan holds the translation against any configuration: it never panics, and
// what it takes leads nowhere out of the container's root.
func FuzzPlan(f *testing.F) {
	for _, change := range []func(*specs.Spec){
		withOptions("ro", "x-msb.update=follow"),
		withAnnotation(AnnotationMetadata, "host"),
		withAnnotation(AnnotationHide, `a/./b,c\\,d`),
		withOptions("x-msb.hide=.env,a/b"),
		withMount(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/a/../b", Options: []string{"size=1m"}}),
		withMount(specs.Mount{Type: "bind", Source: "../x", Destination: "//./x"}),
	} {
		seed, err := json.Marshal(container(change))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"root":{"path":"x"},"process":{},"linux":{},"mounts":[{"destination":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var spec specs.Spec
		if json.Unmarshal(data, &spec) != nil {
			return
		}
		plan, err := New(&spec, "/bundle")
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		for _, bind := range plan.Binds {
			if !strings.HasPrefix(bind.Source, "/") || strings.Contains(bind.Source+"/", "/../") || strings.Contains(bind.Destination+"/", "/../") {
				t.Errorf("a path that leads out: %+v", bind)
			}
			for _, hidden := range slices.Concat(bind.Hide, bind.HideAny) {
				if !filepath.IsLocal(hidden) || hidden == "." || strings.Contains(hidden, "\x00") {
					t.Errorf("a hidden path that leads out: %q", hidden)
				}
			}
		}
		if _, err := plan.Guest(Places{Rootfs: "/r", Cgroup: "/c", Network: "/n", Binds: make([]string, len(plan.Binds))}); err != nil {
			t.Error(err)
		}
		_, _ = plan.Size(Size{CPUs: 1, Memory: 1 << 29}, Size{CPUs: 4, Memory: 1 << 34})
	})
}
