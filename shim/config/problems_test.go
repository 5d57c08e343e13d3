package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// All that is wrong with a file is told at once, with its line and with what was meant.
func TestCheckTellsAll(t *testing.T) {
	const file = `driver = "kqemu"
kitt = "/k"
cpus = 2
quux = 1
[vm]
cpus = 0
memory = "much"
boot_timeout = 5
return_memry = true
retrun_memory = true
[images]
mount = 1
[compta]
host_namespaces = "vm"
[[krun]]
library = "/x"
`
	want := []string{
		`1: unknown driver "kqemu", it is auto, krun or qemu`,
		`2: unknown setting kitt, did you mean kit?`,
		`3: unknown setting cpus, did you mean vm.cpus?`,
		`4: unknown setting quux`,
		`6: vm.cpus is 0 and must be at least 1`,
		`7: vm.memory: "much" is not a size such as 512MiB`,
		`8: vm.boot_timeout is 5, and has to be a time such as "60s"`,
		`9: unknown setting vm.return_memry, did you mean vm.return_memory?`,
		`10: unknown setting vm.retrun_memory, did you mean vm.return_memory?`,
		`12: images.mount is 1, and has to be a string`,
		`13: unknown section compta, did you mean [compat]?`,
		`15: [[krun]] makes a list, the section is [krun]`,
	}
	got := told(Check([]Layer{{"/c", []byte(file)}}))
	for i := range want {
		want[i] = "/c:" + want[i]
	}
	if !slices.Equal(got, want) {
		t.Errorf("Check tells\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func told(problems []Problem) (lines []string) {
	for _, problem := range problems {
		lines = append(lines, problem.String())
	}
	return lines
}

func TestCheck(t *testing.T) {
	for file, want := range map[string]string{
		"":                                 "",
		"[vm]\ncpus = 2":                   "",
		"vm.cpus = 2":                      "",
		"vm = { cpus = 2, memory='1GiB' }": "",
		"vm = { cpus = 2, memroy='1GiB' }": "/c:1: unknown setting vm.memroy, did you mean vm.memory?",
		"\nvm = 1":                         "/c:2: vm is a section, in which settings are: [vm]",
		"[driver]":                         "/c:1: driver is a setting and no section: its value is a string",
		"driver.x = 1":                     "/c:1: unknown setting driver.x",
		"\ndriver = ":                      "/c:2: this is not TOML: ",
		"driver='qemu'\ndriver='krun'":     "/c:2: this is not TOML: ",
		"driver = ['qemu']":                "/c:1: driver is a list, and has to be a string",
		"[vm]\n[vm.x]\ny=1":                "/c:2: unknown section vm.x",
	} {
		got := strings.Join(told(Check([]Layer{{"/c", []byte(file)}})), "\n")
		if got != want && (want == "" || !strings.HasPrefix(got, want) || strings.Contains(got, "\n")) {
			t.Errorf("%q: %q, want %q", file, got, want)
		}
	}
}

// The shim tells all, too, and refuses as it does what is the client's mistake.
func TestLoadTellsAll(t *testing.T) {
	options, err := typeurl.MarshalAny(&runtimeoptions.Options{ConfigBody: []byte("drivr = 'qemu'\n[vm]\ncpus = 0")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Load(options)
	const want = "runtime options: unknown setting drivr, did you mean driver?; runtime options: vm.cpus is 0 and must be at least 1: invalid argument"
	if !errdefs.IsInvalidArgument(err) || err.Error() != want {
		t.Errorf("Load: %v, want %s", err, want)
	}
}

// Drop-ins are read after the file, in the order of their names, and tell where a value is from.
func TestDropIns(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("config.toml", "driver = 'qemu'\n\n[vm]\ncpus = 2\nmemory = '1GiB'")
	write("config.d/20-b.toml", "[vm]\ncpus = 4")
	second := write("config.d/10-a.toml", "vm = { cpus = 3, memory = '1536MiB' }")
	write("config.d/30-c.toml.off", "nonsense")
	layers, err := Layers(file)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := Settings(layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Setting{
		{"driver", `"qemu"`, file + ":1"},
		{"vm.cpus", "4", filepath.Join(dir, "config.d/20-b.toml") + ":2"},
		{"vm.memory", `"1536MiB"`, second + ":1"},
		{"vm.boot_timeout", `"60s"`, Unset},
		{"krun.library", "", Unset},
	} {
		if !slices.Contains(settings, want) {
			t.Errorf("no %v in %v", want, settings)
		}
	}
	bad := write("config.d/40-bad.toml", "\n[vm]\ncpu = 4")
	if layers, err = Layers(file); err != nil {
		t.Fatal(err)
	}
	if _, err = Resolve(layers); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), bad+":3: unknown setting vm.cpu, did you mean vm.cpus?") {
		t.Errorf("a bad drop-in: %v", err)
	}
}

// What is printed is the default, and each setting is explained.
func TestCommented(t *testing.T) {
	text := Commented()
	got, err := Parse([]byte(text))
	if err != nil || got != Default() {
		t.Errorf("it is %+v, %v:\n%s", got, err, text)
	}
	for _, k := range keys() {
		if comments[k.name()] == "" {
			t.Errorf("%s has no comment in commented.go", k.name())
		}
		if section := strings.Join(k.path[:len(k.path)-1], "."); section != "" && comments[section] == "" {
			t.Errorf("section %s has no comment in commented.go", section)
		}
		if k.takes == "" {
			t.Errorf("%s has a type that is not among typed", k.name())
		}
	}
	for name := range comments {
		if _, found := findKey(name); !found && !isSection(name) {
			t.Errorf("%s has a comment, and is no setting", name)
		}
	}
}

// Files for traces are told with the line that names them, and hold up no container. What may be
// a secret in the place of its file is not repeated.
func TestFilesOfTraces(t *testing.T) {
	dir := t.TempDir()
	for file, want := range map[string]string{
		"[tracing]\ncertificate = '" + dir + "/no'":                                          "/c:2: tracing.certificate (" + dir + "/no) cannot be used, and no spans are sent until it can: no such file or directory",
		"[tracing]\nendpoint = 'off'\ncertificate = '" + dir + "/no'":                        "",
		"tracing.headers_file = '" + dir + "'\ntracing.client_certificate = '" + dir + "/c'": "/c:2: tracing.client_certificate (" + dir + "/c) cannot be used, and no spans are sent until it can: no such file or directory\n/c:1: tracing.headers_file (" + dir + ") cannot be used, and no spans are sent until it can: it is no regular file",
		"[vm]\ncpus = 2": "",
	} {
		layers := []Layer{{"/c", []byte(file)}}
		if got := strings.Join(told(CheckFiles(layers)), "\n"); got != want {
			t.Errorf("%q: %s\nwant %s", file, got, want)
		}
		if _, err := Resolve(layers); err != nil {
			t.Errorf("a container is refused: %v", err)
		}
	}
	for file, want := range map[string]string{
		"tracing.headers_file = 'Authorization: s3cret'":   "/c:1: tracing.headers_file has to be the absolute path of a file",
		"tracing.headers_file = ['Authorization: s3cret']": "/c:1: tracing.headers_file is a list, and has to be a string",
		"tracing.headers = 's3cret'":                       "/c:1: unknown setting tracing.headers",
		"tracing.client_key = \"/s3cret\\u0000\"":          "/c:1: tracing.client_key has a character NUL, which no path or address may have",
		"kit = \"/k\\u0000\"":                              "/c:1: kit has a character NUL, which no path or address may have",
	} {
		layers := []Layer{{"/c", []byte(file)}}
		if got := strings.Join(told(Check(layers)), "\n"); !strings.HasPrefix(got, want) || strings.Contains(got, "s3cret") {
			t.Errorf("%q: %s\nwant %s", file, got, want)
		}
		if problems := CheckFiles(layers); len(problems) > 0 {
			t.Errorf("%q: of its files: %v", file, problems)
		}
	}
}
