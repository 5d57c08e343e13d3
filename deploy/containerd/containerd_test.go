package containerd

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// A daemon stands for a containerd: it reads a configuration and its drop-ins as the
// version does that it pretends to be.
type daemon struct {
	t        *testing.T
	config   string
	version  int64 // of the configuration: 2 is containerd 1.7, more is 2.x
	restarts int
	broken   bool // does not start with a drop-in
}

func (d *daemon) dump(context.Context) ([]byte, error) {
	main := d.load(d.config)
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(d.config), "conf.d", "*.toml"))
	for _, file := range files {
		from := d.load(file)
		if from["version"].(int64) > d.version {
			return nil, errors.New("unsupported config version")
		}
		plugins := main["plugins"].(map[string]any)
		if d.version >= 3 {
			merge(plugins, from["plugins"].(map[string]any))
		} else {
			maps.Copy(plugins, from["plugins"].(map[string]any))
		}
	}
	main["version"] = d.version
	return toml.Marshal(main)
}

func (d *daemon) restart(context.Context) error {
	d.restarts++
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(d.config), "conf.d", "*.toml")); d.broken && len(files) > 0 {
		return errors.New("containerd.service failed")
	}
	return nil
}

func (d *daemon) load(path string) map[string]any {
	content, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	table := map[string]any{}
	if err := toml.Unmarshal(content, &table); err != nil {
		d.t.Fatal(err)
	}
	return table
}

func merge(to, from map[string]any) {
	for name, value := range from {
		table, isTable := value.(map[string]any)
		other, isOther := to[name].(map[string]any)
		if isTable && isOther {
			merge(other, table)
		} else {
			to[name] = value
		}
	}
}

// start writes the configuration of a node and starts its daemon.
func start(t *testing.T, version int64, config string) (*daemon, Containerd, string) {
	dir := t.TempDir()
	d := &daemon{t: t, config: filepath.Join(dir, "config.toml"), version: version}
	if err := os.WriteFile(d.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Join(dir, "msb")
	return d, Containerd{Config: d.config, Prefix: prefix, Dump: d.dump, Restart: d.restart}, filepath.Join(dir, "conf.d", "msb.toml")
}

const (
	config3 = `version = 3
imports = ["conf.d/*.toml"]
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "pause:1"
`
	config2 = `version = 2
imports = ["conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "pause:1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
`
)

func TestAddRemove(t *testing.T) {
	d, c, file := start(t, 4, config3)
	expect := func(what string, err error, restarts int, there bool) {
		t.Helper()
		_, statErr := os.Stat(file)
		if err != nil || d.restarts != restarts || there != (statErr == nil) || c.pending() {
			t.Errorf("%s: %v, restarted %d times, drop-in: %v, pending: %v", what, err, d.restarts, statErr, c.pending())
		}
	}
	ctx := context.Background()
	expect("added", c.Add(ctx), 1, true)
	expect("added again", c.Add(ctx), 1, true)
	if err := c.markPending(); err != nil {
		t.Fatal(err)
	}
	expect("added again after it was cut off before the restart", c.Add(ctx), 2, true)
	if err := os.WriteFile(file, []byte("version = 3\n[plugins]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("upgraded", c.Add(ctx), 3, true)
	if shim, known := d.mustShim(); !known || shim != c.Prefix+"/current/bin/containerd-shim-msb-v2" {
		t.Errorf("containerd's shim is %q", shim)
	}
	expect("removed", c.Remove(ctx), 4, false)
	expect("removed again", c.Remove(ctx), 4, false)
}

// The runtime has a snapshotter of its own where containerd has that, and the node what it
// needs.
func TestSnapshotter(t *testing.T) {
	const section = "[plugins.'io.containerd.snapshotter.v1.erofs']\ndefault_size = '10GiB'\n"
	for name, c := range map[string]struct {
		config, help, err string
	}{
		"none":        {config3, "--tar=X", "containerd has no snapshotter erofs"},
		"no programs": {config3 + section, "", "needs mkfs.erofs"},
		"old":         {config3 + section, "--exclude-path=X", "takes no archives"},
		"good":        {config3 + section, "--tar=X", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, node, file := start(t, 4, c.config)
			node.Snapshotter = "erofs"
			node.MkfsHelp = func(context.Context) ([]byte, error) {
				if c.help == "" {
					return nil, os.ErrNotExist
				}
				return []byte(c.help), nil
			}
			err := node.Add(context.Background())
			if c.err != "" {
				if _, statErr := os.Stat(file); err == nil || !strings.Contains(err.Error(), c.err) || statErr == nil || d.restarts != 0 {
					t.Errorf("Add = %v, want %q; file: %v, restarted %d times", err, c.err, statErr, d.restarts)
				}
				return
			}
			if runtime, _ := d.mustParse().runtimes()[Runtime].(map[string]any); err != nil || runtime["snapshotter"] != "erofs" {
				t.Errorf("Add = %v; the runtime's section is %v", err, runtime)
			}
		})
	}
}

func (d *daemon) mustShim() (string, bool) { return d.mustParse().shim() }

func (d *daemon) mustParse() config {
	printed, err := d.dump(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := parse(printed)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		version int64
		config  string
		broken  bool
		err     string
	}{
		"no imports":        {4, strings.Replace(config3, "imports", "# imports", 1), false, "add imports ="},
		"other imports":     {4, strings.Replace(config3, "conf.d/*", "conf.d/00-*", 1), false, "add imports ="},
		"another msb":       {4, config3 + "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.msb]\nruntime_path = '/usr/bin/x'", false, "not of this kit"},
		"1.7 loses":         {2, config2, false, "containerd would lose plugins.io.containerd.grpc.v1.cri.containerd.runtimes.runc, plugins.io.containerd.grpc.v1.cri.sandbox_image"},
		"1.7 loses, advice": {2, config2, false, `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.msb]`},
		"does not restart":  {4, config3, true, "containerd.service failed"},
	} {
		t.Run(name, func(t *testing.T) {
			d, node, file := start(t, c.version, c.config)
			d.broken = c.broken
			err := node.Add(context.Background())
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("Add = %v, want %q", err, c.err)
			}
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s is left", file)
			}
			if _, known := d.mustShim(); known != (name == "another msb") || node.pending() {
				t.Errorf("containerd is not as before; pending: %v", node.pending())
			}
			if c.broken != (d.restarts == 2) {
				t.Errorf("restarted %d times", d.restarts)
			}
		})
	}
}

// Lines that were added by hand, as 1.7 needs it, are all there is to do.
func TestAddedByHand(t *testing.T) {
	d, c, file := start(t, 2, config2)
	lines := strings.ReplaceAll(version2, Prefix+"/", c.Prefix+"/")
	if err := os.WriteFile(d.config, []byte(config2+lines), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Add(context.Background()), c.Remove(context.Background())); err != nil || d.restarts != 0 {
		t.Errorf("Add = %v, restarted %d times", err, d.restarts)
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("%s was made", file)
	}
}

func TestDropInPath(t *testing.T) {
	const path = "/etc/containerd/config.toml"
	for imports, want := range map[string]string{
		`["/etc/containerd/conf.d/*.toml"]`:       "/etc/containerd/conf.d/msb.toml",
		`["conf.d/*.toml"]`:                       "/etc/containerd/conf.d/msb.toml",
		`["/a/kata.toml", "/b/../c/*.toml"]`:      "/c/msb.toml",
		`["/a/msb.toml"]`:                         "/a/msb.toml",
		`["/etc/*/x.toml", "/etc/*/*.toml"]`:      "",
		`["/etc/containerd/conf.d/*.conf"]`:       "",
		`["/etc/containerd/conf.d/[.toml"]`:       "",
		`[]`:                                      "",
		`["/etc/containerd/conf.d/[a-m]*.toml"] `: "/etc/containerd/conf.d/msb.toml",
	} {
		got, err := dropInPath(path, []byte("imports = "+imports))
		if got != want || (err != nil) != (want == "") {
			t.Errorf("imports = %s: %q, %v, want %q", imports, got, err, want)
		}
	}
	if _, err := dropInPath(path, []byte("[")); err == nil {
		t.Error("a file that is no TOML is taken")
	}
}

func TestCommand(t *testing.T) {
	if err := Command("true")(context.Background()); err != nil {
		t.Error(err)
	}
	err := Command("ls /no/file")(context.Background())
	if err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("a failed command says %v", err)
	}
	if err := Command(" ")(context.Background()); err == nil {
		t.Error("no command is a command")
	}
}
