package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// keys are the names of all settings and the types of their values, in the order of Config.
var keys = sync.OnceValue(func() []key { return keysOf(reflect.TypeFor[Config](), nil) })

// A key is a setting's name, part by part.
type key struct {
	path  []string
	index []int // of the field, in Config
	kind  reflect.Kind
	takes string // in words, what values it has
}

func (k key) name() string { return strings.Join(k.path, ".") }

// typed are the kinds of value that settings have in a file, and the words for them.
var typed = map[reflect.Type]key{
	reflect.TypeFor[bool]():     {kind: reflect.Bool, takes: "true or false"},
	reflect.TypeFor[int]():      {kind: reflect.Int, takes: "a whole number"},
	reflect.TypeFor[string]():   {kind: reflect.String, takes: "a string"},
	reflect.TypeFor[Bytes]():    {kind: reflect.String, takes: `a size such as "512MiB"`},
	reflect.TypeFor[Duration](): {kind: reflect.String, takes: `a time such as "60s"`},
}

func keysOf(of reflect.Type, path []string) (all []key) {
	for i := range of.NumField() {
		field := of.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if name == "" {
			continue
		}
		path := append(slices.Clone(path), name)
		if field.Type.Kind() == reflect.Struct {
			for _, k := range keysOf(field.Type, path) {
				k.index = append([]int{i}, k.index...)
				all = append(all, k)
			}
			continue
		}
		k := typed[field.Type]
		k.path, k.index = path, []int{i}
		all = append(all, k)
	}
	return all
}

func findKey(name string) (key, bool) {
	i := slices.IndexFunc(keys(), func(k key) bool { return k.name() == name })
	if i < 0 {
		return key{}, false
	}
	return keys()[i], true
}

// isSection tells whether settings are below a name.
func isSection(name string) bool {
	return slices.ContainsFunc(keys(), func(k key) bool { return strings.HasPrefix(k.name(), name+".") })
}

// withNUL names a setting with a string that no program can be given; empty if there is none.
func withNUL(config Config) string {
	for _, k := range keys() {
		if value := reflect.ValueOf(config).FieldByIndex(k.index); value.Kind() == reflect.String && strings.Contains(value.String(), "\x00") {
			return k.name()
		}
	}
	return ""
}

// flatten is every setting of a configuration, in the order of Config, as a file has it.
func flatten(config Config) []Setting {
	settings := make([]Setting, 0, len(keys()))
	for _, k := range keys() {
		settings = append(settings, Setting{Key: k.name(), Value: written(reflect.ValueOf(config).FieldByIndex(k.index))})
	}
	return settings
}

// written is a value as a file has it; empty for a string that is.
func written(value reflect.Value) string {
	switch given := value.Interface().(type) {
	case Bytes:
		return strconv.Quote(given.String())
	case Duration:
		return strconv.Quote(given.String())
	case string:
		if given == "" {
			return ""
		}
		return strconv.Quote(given)
	}
	return fmt.Sprint(value.Interface())
}

// String is the size in the largest unit that tells it exactly.
func (b Bytes) String() string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; i+1 < len(units) && b != 0 && b%1024 == 0; i++ {
		b /= 1024
	}
	return strconv.FormatInt(int64(b), 10) + units[i]
}

// String is the time in seconds, if it is a number of them.
func (d Duration) String() string {
	if d%Duration(time.Second) == 0 {
		return strconv.FormatInt(int64(d/Duration(time.Second)), 10) + "s"
	}
	return time.Duration(d).String()
}

// An entry is a line of a file that names a setting or a section.
type entry struct {
	path    []string
	line    int
	section bool // [section], or [[section]]
}

func (e entry) name() string { return strings.Join(e.path, ".") }

// entriesOf are what a file names, without a judgement of it.
func entriesOf(data []byte) (entries []entry, err error) {
	var parser unstable.Parser
	parser.Reset(data)
	var section []string
	for parser.NextExpression() {
		node := parser.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			section = partsOf(node)
			entries = append(entries, entry{section, lineOf(&parser, node), true})
		case unstable.KeyValue:
			entries = append(entries, valuesOf(&parser, node, section)...)
		}
	}
	return entries, parser.Error()
}

// valuesOf are the settings of a line: several, if its value is an inline table.
func valuesOf(parser *unstable.Parser, node *unstable.Node, section []string) (entries []entry) {
	path := append(slices.Clone(section), partsOf(node)...)
	line := lineOf(parser, node)
	if node.Value().Kind != unstable.InlineTable {
		return []entry{{path, line, false}}
	}
	entries = append(entries, entry{path, line, true})
	for children := node.Value().Children(); children.Next(); {
		entries = append(entries, valuesOf(parser, children.Node(), path)...)
	}
	return entries
}

func partsOf(node *unstable.Node) (parts []string) {
	for iterator := node.Key(); iterator.Next(); {
		parts = append(parts, string(iterator.Node().Data))
	}
	return parts
}

func lineOf(parser *unstable.Parser, node *unstable.Node) int {
	iterator := node.Key()
	iterator.Next()
	return parser.Shape(iterator.Node().Raw).Start.Line
}
