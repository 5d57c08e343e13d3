package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/msb-runtime/containerd-shim-msb/internal/smallfile"
)

// A Layer is one source of the configuration. What a later one sets wins.
type Layer struct {
	// Origin is the path of a file, or the words for what is none.
	Origin string
	Data   []byte
}

// Unreadable are files of a configuration that cannot be read.
type Unreadable []Problem

func (u Unreadable) Error() string { return lines(u) }

// Layers are the configuration file and its drop-ins, the files *.toml of the directory
// beside it that has its name with .d for .toml (config.d), in the order of their names.
// An empty path means the file that the shim reads by itself. With an Unreadable, there are those
// that can be read.
func Layers(path string) ([]Layer, error) {
	if path == "" {
		return readDefault()
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return readFile(path, false)
}

func readDefault() ([]Layer, error) {
	prefix, err := installPrefix()
	if err != nil {
		return nil, err
	}
	// What is there and cannot be read does not give way to another.
	path := filepath.Join(prefix, prefixFile)
	if absent(path) {
		return readFile(Path, true)
	}
	return readFile(path, false)
}

// absent tells whether there is nothing of that name, not even a link that leads nowhere.
func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// readFile reads a file, which need not exist if it is optional, and its drop-ins.
func readFile(path string, optional bool) (layers []Layer, err error) {
	var wrong Unreadable
	fails := func(path string, err error) {
		if of := new(os.PathError); errors.As(err, &of) {
			err = of.Err
		}
		wrong = append(wrong, Problem{path, fmt.Errorf("it cannot be read: %w", err).Error()})
	}
	add := func(path string) {
		data, err := smallfile.Read(path)
		if err != nil {
			fails(path, err)
			return
		}
		data = bytes.TrimPrefix(data, []byte("\ufeff")) // with which editors of Windows begin
		layers = append(layers, Layer{Origin: path, Data: data})
	}
	if !optional || !absent(path) {
		add(path)
	}
	dir := dropIns(path)
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil && !absent(dir) {
		fails(dir, err)
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == ".toml" {
			add(filepath.Join(dir, entry.Name()))
		}
	}
	if len(wrong) > 0 {
		return layers, wrong
	}
	return layers, nil
}

// dropIns is the directory of a file's drop-ins.
func dropIns(path string) string { return strings.TrimSuffix(path, ".toml") + ".d" }

// decode sets what the layer sets.
func (l Layer) decode(config *Config) error {
	return toml.NewDecoder(bytes.NewReader(l.Data)).DisallowUnknownFields().Decode(config)
}

// place is where a line of the layer is.
func (l Layer) place(line int) string {
	if !filepath.IsAbs(l.Origin) || line == 0 {
		return l.Origin // what is sent has no lines that anybody could look up
	}
	return fmt.Sprintf("%s:%d", l.Origin, line)
}

// Resolve is the configuration of layers. Its error tells all that is wrong with them.
func Resolve(layers []Layer) (Config, error) {
	config, err := parse(layers)
	if err != nil {
		return Config{}, explain(layers)
	}
	if config.Kit == "" {
		prefix, err := installPrefix()
		if err != nil {
			return Config{}, err
		}
		config.Kit = filepath.Join(prefix, "lib", "msb")
	}
	return config, nil
}

// A Setting is one value of the configuration.
type Setting struct {
	// Key is its name, with that of its section before it: vm.memory.
	Key string `json:"key"`
	// Value is written as in a file; empty if it is not set and has no default.
	Value string `json:"value"`
	// Origin is where it is set, as file:line, or Unset.
	Origin string `json:"origin"`
}

// Unset is the origin of a setting that no file sets.
const Unset = "default"

// Settings are all that there are, and where they come from.
func Settings(layers []Layer) ([]Setting, error) {
	config, err := Resolve(layers)
	if err != nil {
		return nil, err
	}
	origins := map[string]string{}
	for _, layer := range layers {
		entries, err := entriesOf(layer.Data)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			origins[e.name()] = layer.place(e.line)
		}
	}
	settings := slices.Clone(flatten(config))
	for i, s := range settings {
		settings[i].Origin = Unset
		if origin := origins[s.Key]; origin != "" {
			settings[i].Origin = origin
		}
	}
	return settings, nil
}
