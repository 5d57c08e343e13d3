package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// A Problem is something that is wrong with a configuration.
type Problem struct {
	// Place is where, as file:line.
	Place string `json:"place"`
	// Text says what, and where it can be told, what is right.
	Text string `json:"text"`
}

func (p Problem) String() string { return p.Place + ": " + p.Text }

// Check tells all that is wrong with the layers of a configuration: of a file that is no
// TOML the first mistake, of others every one.
func Check(layers []Layer) (problems []Problem) {
	_, err := parse(layers)
	if err == nil {
		return nil
	}
	for _, layer := range layers {
		problems = append(problems, layer.check()...)
	}
	if len(problems) == 0 {
		// Each setting is right, so it is about several of them.
		problems = append(problems, Problem{layers[len(layers)-1].Origin, text(err)})
	}
	return problems
}

// CheckFiles tells what is wrong with the files that a configuration without problems names for
// traces. No container is refused for it.
func CheckFiles(layers []Layer) (problems []Problem) {
	config, err := parse(layers)
	if err != nil || config.Tracing.Endpoint == trace.Off {
		return nil
	}
	wrong := trace.FilesOf(config.Tracing.Getenv(func(string) string { return "" })).Check()
	if len(wrong) == 0 {
		return nil
	}
	settings, err := Settings(layers)
	if err != nil {
		return nil
	}
	for _, err := range wrong {
		i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key == err.Setting })
		problems = append(problems, Problem{settings[i].Origin, err.Error()})
	}
	return problems
}

// explain says all that is wrong, instead of the first that was found.
func explain(layers []Layer) error {
	return fmt.Errorf("%s: %w", lines(Check(layers)), errdefs.ErrInvalidArgument)
}

func lines(problems []Problem) string {
	var all []string
	for _, problem := range problems {
		all = append(all, problem.String())
	}
	return strings.Join(all, "; ")
}

func (l Layer) check() (problems []Problem) {
	var content map[string]any
	if err := toml.Unmarshal(l.Data, &content); err != nil {
		line := 0
		if found := new(toml.DecodeError); errors.As(err, &found) {
			line, _ = found.Position()
		}
		err = fmt.Errorf("this is not TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
		return []Problem{{l.place(line), err.Error()}}
	}
	entries, err := entriesOf(l.Data)
	if err != nil {
		return []Problem{{l.Origin, err.Error()}}
	}
	var wrong []string // sections: nothing is said of what is in them
	for _, e := range entries {
		if slices.ContainsFunc(wrong, func(section string) bool { return strings.HasPrefix(e.name(), section+".") }) {
			continue
		}
		if err := e.check(content); err != nil {
			problems = append(problems, Problem{l.place(e.line), text(err)})
			if e.section {
				wrong = append(wrong, e.name())
			}
		}
	}
	return problems
}

// check judges one entry of a file, whose content is given, as if it were the only one.
func (e entry) check(content map[string]any) error {
	name := e.name()
	value, found := valueAt(content, e.path)
	switch known, isKey := findKey(name); {
	case e.section && isKey:
		return fmt.Errorf("%s is a setting and no section: its value is %s", name, known.takes)
	case e.section && !isSection(name):
		return fmt.Errorf("unknown section %s%s", name, suggest(name))
	case e.section && !found:
		return fmt.Errorf("[[%s]] makes a list, the section is [%s]", name, name)
	case e.section:
		return nil
	case isSection(name):
		return fmt.Errorf("%s is a section, in which settings are: [%s]", name, name)
	case !isKey:
		return fmt.Errorf("unknown setting %s%s", name, suggest(name))
	case !fits(value, known.kind):
		if !found {
			value = "a list" // what is in it may be a secret in the wrong place
		}
		return fmt.Errorf("%s is %v, and has to be %s", name, value, known.takes)
	}
	for _, part := range slices.Backward(e.path) {
		value = map[string]any{part: value}
	}
	alone, err := toml.Marshal(value)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err = Parse(alone); err != nil && !strings.Contains(err.Error(), name) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// valueAt is the value of a path. A list of sections has none.
func valueAt(content map[string]any, path []string) (value any, found bool) {
	value = content
	for _, part := range path {
		table, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, found = table[part]; !found {
			return nil, false
		}
	}
	_, list := value.([]any)
	return value, !list
}

func fits(value any, kind reflect.Kind) bool {
	switch value.(type) {
	case string:
		return kind == reflect.String
	case int64:
		return kind == reflect.Int
	case bool:
		return kind == reflect.Bool
	}
	return false
}

// text is an error without its class, which every one of them has.
func text(err error) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.ReplaceAll(err.Error(), "toml: ", ""), " ("+errdefs.ErrInvalidArgument.Error()+")"), ": "+errdefs.ErrInvalidArgument.Error())
}

// suggest names the setting or section that was meant, if one is near.
func suggest(name string) string {
	const longest = 100
	if len(name) > longest {
		return ""
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	best, nearest := len(name), ""
	try := func(candidate string, distance, length int) {
		if distance < best && distance <= max(1, length/3) {
			best, nearest = distance, candidate
		}
	}
	for _, k := range keys() {
		try(k.name(), distance(name, k.name()), len(name))
	}
	for _, k := range keys() {
		// The right name in the wrong section, or none.
		try(k.name(), distance(last, k.path[len(k.path)-1]), len(last))
		for i := range len(k.path) - 1 {
			section := strings.Join(k.path[:i+1], ".")
			try("["+section+"]", distance(name, section), len(name))
		}
	}
	if nearest == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %s?", nearest)
}

// distance is how many letters have to be added, left out, replaced, or exchanged with their
// neighbour to make one word of another (optimal string alignment).
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
