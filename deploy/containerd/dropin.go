package containerd

import (
	_ "embed"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Runtime is the name of the runtime in containerd's configuration, which is also
// the handler that a RuntimeClass names.
const Runtime = "msb"

// Prefix is where the two files look for the kit.
const Prefix = "/opt/msb"

var (
	//go:embed version-3.toml
	version3 string
	//go:embed version-2.toml
	version2 string
)

const (
	fileName = "msb.toml"
	// What somebody is told to add whose configuration takes no file of ours.
	importsLine = `imports = ["/etc/containerd/conf.d/*.toml"]`
)

// A config is the whole of a configuration, as "containerd config dump" prints it.
type config map[string]any

func parse(dump []byte) (config, error) {
	c := config{}
	if err := toml.Unmarshal(dump, &c); err != nil {
		return nil, fmt.Errorf("what containerd config dump printed: %w", err)
	}
	return c, nil
}

func (c config) version() int64 {
	version, _ := c["version"].(int64)
	return version
}

// runtimes is the table of runtimes; nil where there is no CRI plugin.
func (c config) runtimes() map[string]any {
	plugins, _ := c["plugins"].(map[string]any)
	for _, plugin := range []string{"io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"} {
		cri, _ := plugins[plugin].(map[string]any)
		if table, ok := cri["containerd"].(map[string]any); ok {
			runtimes, _ := table["runtimes"].(map[string]any)
			return runtimes
		}
	}
	return nil
}

// shim is the path of the runtime's shim; ok says whether there is such a runtime.
func (c config) shim() (path string, ok bool) {
	runtime, ok := c.runtimes()[Runtime].(map[string]any)
	path, _ = runtime["runtime_path"].(string)
	if kind, _ := runtime["runtime_type"].(string); filepath.IsAbs(kind) {
		path = kind
	}
	return path, ok
}

// lost names the settings that are others, or are not there, in the configuration
// after: our runtime and the list of files not counted, there may be none.
func (c config) lost(after config) []string {
	without := func(c config) map[string]any {
		delete(c.runtimes(), Runtime)
		delete(c, "imports")
		return c
	}
	return lost("", without(c), without(after))
}

func lost(path string, before, after map[string]any) []string {
	var names []string
	for name, value := range before {
		at := strings.TrimPrefix(path+"."+name, ".")
		table, isTable := value.(map[string]any)
		now, isStill := after[name].(map[string]any)
		switch {
		case isTable && isStill:
			names = append(names, lost(at, table, now)...)
		case !reflect.DeepEqual(value, after[name]):
			names = append(names, at)
		}
	}
	slices.Sort(names)
	return names
}

// dropInPath is the file that the configuration at path would take ours from. Only
// its own line counts: containerd's default for imports holds where it has none,
// but is not followed (LoadConfigWithPlugins in cmd/containerd/server/config).
func dropInPath(path string, content []byte) (string, error) {
	var file struct {
		Imports []string `toml:"imports"`
	}
	if err := toml.Unmarshal(content, &file); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	for _, pattern := range file.Imports {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(path), pattern)
		}
		pattern = filepath.Clean(pattern)
		dir := filepath.Dir(pattern)
		if matched, err := filepath.Match(filepath.Base(pattern), fileName); err == nil && matched && !strings.Contains(dir, "*") {
			return filepath.Join(dir, fileName), nil
		}
	}
	return "", fmt.Errorf("%s imports no directory that msb could put a file into: add %s before its first table", path, importsLine)
}

// hasSnapshotter tells whether containerd has one of that name: the configuration of each has
// a section.
func (c config) hasSnapshotter(name string) bool {
	plugins, _ := c["plugins"].(map[string]any)
	_, ok := plugins["io.containerd.snapshotter.v1."+name]
	return ok
}

// dropIn is the file for a configuration of this version, the kit below prefix. The runtime's
// section is its last one.
func dropIn(version int64, prefix, snapshotter string) string {
	text := version3
	if version < 3 {
		text = "version = 2\n" + version2
	}
	if snapshotter != "" {
		text += fmt.Sprintf("  snapshotter = %q\n", snapshotter)
	}
	return strings.ReplaceAll(text, Prefix+"/", prefix+"/")
}
