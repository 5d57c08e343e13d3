package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// numbered are as many paths, separated by commas, from a number on.
func numbered(from, many int) string {
	names := make([]string, many)
	for i := range names {
		names[i] = fmt.Sprint(from + i)
	}
	return strings.Join(names, ",")
}

// numberedOptions are options that hide as many paths.
func numberedOptions(many int) (options []string) {
	const each = 500
	for from := 0; from < many; from += each {
		options = append(options, "x-msb.hide="+numbered(from, min(each, many-from)))
	}
	return options
}

func TestHide(t *testing.T) {
	for name, c := range map[string]struct {
		change    []func(*specs.Spec)
		hide, any []string
	}{
		"nothing":            {[]func(*specs.Spec){withOptions()}, nil, nil},
		"one":                {[]func(*specs.Spec){withOptions("x-msb.hide=.env")}, []string{".env"}, nil},
		"a list":             {[]func(*specs.Spec){withOptions("x-msb.hide=.env,.git,secrets/")}, []string{".env", ".git", "secrets"}, nil},
		"several options":    {[]func(*specs.Spec){withOptions("x-msb.hide=.env", "ro", "x-msb.hide=a/b")}, []string{".env", "a/b"}, nil},
		"not in short":       {[]func(*specs.Spec){withOptions("x-msb.hide=./a//b/./c")}, []string{"a/b/c"}, nil},
		"a comma in a name":  {[]func(*specs.Spec){withOptions(`x-msb.hide=a\,b,c\\,d`)}, []string{"a,b", `c\`, "d"}, nil},
		"odd bytes":          {[]func(*specs.Spec){withOptions("x-msb.hide=a=b:c d\n\xff")}, []string{"a=b:c d\n\xff"}, nil},
		"dots":               {[]func(*specs.Spec){withOptions("x-msb.hide=...,..a,a..")}, []string{"...", "..a", "a.."}, nil},
		"annotation":         {[]func(*specs.Spec){withAnnotation(AnnotationHide, ".env,.git"), withOptions()}, nil, []string{".env", ".git"}},
		"both":               {[]func(*specs.Spec){withAnnotation(AnnotationHide, ".env"), withOptions("x-msb.hide=.git")}, []string{".git"}, []string{".env"}},
		"many":               {[]func(*specs.Spec){withOptions(numberedOptions(maxHidden)...)}, strings.Split(numbered(0, maxHidden), ","), nil},
		"many by annotation": {[]func(*specs.Spec){withAnnotation(AnnotationHide, numbered(0, maxHidden)), withOptions()}, nil, strings.Split(numbered(0, maxHidden), ",")},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := New(container(c.change...), "/bundle")
			if err != nil {
				t.Fatal(err)
			}
			bind := plan.Binds[0]
			if !slices.Equal(bind.Hide, c.hide) || !slices.Equal(bind.HideAny, c.any) {
				t.Errorf("hidden are %.200q and %.200q", bind.Hide, bind.HideAny)
			}
			data, err := plan.Guest(Places{Rootfs: "/r", Cgroup: "/c", Network: "/n", Binds: []string{"/x"}})
			if err != nil || strings.Contains(string(data), "x-msb") {
				t.Errorf("the option reaches runc: %.500s, %v", data, err)
			}
		})
	}
}

func TestVM34VM35Refused(t *testing.T) {
	hide := func(list string) func(*specs.Spec) { return withOptions("x-msb.hide=" + list) }
	on := func(kind, source string) func(*specs.Spec) {
		return withMount(specs.Mount{Type: kind, Source: source, Destination: "/d", Options: []string{"x-msb.hide=a"}})
	}
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		says   string
	}{
		"empty":                   {hide(""), "mount /d: option x-msb.hide: an empty path in the list"},
		"no value":                {withOptions("x-msb.hide"), "an empty path"},
		"a comma at the end":      {hide(".env,"), "an empty path"},
		"two commas":              {hide("a,,b"), "an empty path"},
		"absolute":                {hide(".env,/etc/passwd"), `path "/etc/passwd" is absolute`},
		"out":                     {hide("../x"), `path "../x" leads out`},
		"out and in":              {hide("a/../b"), `path "a/../b" leads out`},
		"the parent":              {hide(".."), "leads out"},
		"itself":                  {hide("."), `path "." is the source itself`},
		"itself, with slash":      {hide("./"), "is the source itself"},
		"a NUL":                   {hide("a\x00b"), `path "a\x00b" contains a NUL`},
		"a lone backslash":        {hide(`a\b`), "write \\\\ for one"},
		"a backslash at last":     {hide(`a\`), "a backslash is before a comma"},
		"a long option":           {hide(strings.Repeat("x", 4096)), "4107 bytes"},
		"one too many":            {withOptions(numberedOptions(maxHidden + 1)...), "it hides 10001 paths; at most 10000 may be"},
		"on tmpfs":                {on("tmpfs", "tmpfs"), "this is the guest's own"},
		"on proc":                 {on("proc", "proc"), "this is the guest's own"},
		"on a bind of proc":       {on("bind", "/proc"), "this is the guest's own"},
		"on a device":             {on("bind", "/dev/null"), "this is the guest's own"},
		"annotation, out":         {withAnnotation(AnnotationHide, "../x"), "annotation " + AnnotationHide + `: path "../x" leads out`},
		"annotation, empty":       {withAnnotation(AnnotationHide, ""), "an empty path"},
		"annotation, a long path": {withAnnotation(AnnotationHide, strings.Repeat("x/", 2048)), "a path of 4096 bytes"},
		"annotation, too many":    {withAnnotation(AnnotationHide, numbered(0, maxHidden+1)), "more than 10000 paths"},
		"annotation of 10 MiB":    {withAnnotation(AnnotationHide, strings.Repeat(",", 10<<20)), "an empty path"},
		"annotation, a long name": {withAnnotation(AnnotationHide, strings.Repeat("x", 1<<20)+`\`), "a backslash is before"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(container(c.change), "/bundle")
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 500 {
				t.Errorf("New = %.600v", err)
			}
		})
	}
}

// In a pod the shared memory is the guest's.
func TestHideInSharedMemory(t *testing.T) {
	spec := container(inPod("sandbox"), withMount(specs.Mount{Type: "bind", Source: "/run/p/shm", Destination: "/dev/shm", Options: []string{"x-msb.hide=a"}}))
	if _, err := New(spec, "/bundle"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "this is the guest's own") {
		t.Errorf("New = %v", err)
	}
}
