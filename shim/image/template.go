package image

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/containerd/errdefs"
)

// marker stands around an image's index where a template names the place that the image is
// mounted on. No path has it.
const marker = "\x00"

// expand fills in a template of containerd's: mount N is where image N is mounted, overlay M N
// are the places of a range, for lowerdir= (containerd, docs/mounts.md). An image is known
// when it comes before.
func (p *planner) expand(text string) (string, error) {
	if strings.Contains(text, marker) {
		return "", fmt.Errorf("%q has a zero byte: %w", text, errdefs.ErrInvalidArgument)
	}
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	parsed, err := template.New("").Funcs(template.FuncMap{"mount": p.place, "overlay": p.places}).Parse(text)
	if err != nil {
		return "", fmt.Errorf("template %q: %w (%w)", text, err, errdefs.ErrInvalidArgument)
	}
	var expanded strings.Builder
	if err := parsed.Execute(&expanded, nil); err != nil {
		return "", fmt.Errorf("template %q: %w (%w)", text, err, errdefs.ErrInvalidArgument)
	}
	return expanded.String(), nil
}

func (p *planner) place(i int) (string, error) {
	if i < 0 || i >= len(p.root.Images) {
		return "", fmt.Errorf("there is no mount %d before this one", i)
	}
	return marker + strconv.Itoa(i) + marker, nil
}

func (p *planner) places(first, last int) (string, error) {
	step := 1
	if first > last {
		step = -1
	}
	var places []string
	for i := first; ; i += step {
		place, err := p.place(i)
		if err != nil {
			return "", err
		}
		places = append(places, place)
		if i == last {
			return strings.Join(places, ":"), nil
		}
	}
}

// parse takes an expanded path apart.
func (p *planner) parse(name string) (Dir, error) {
	rest, inImage := strings.CutPrefix(name, marker)
	if !inImage {
		if !path.IsAbs(name) || strings.Contains(name, marker) {
			return Dir{}, fmt.Errorf("%q is not an absolute path: %w", name, errdefs.ErrInvalidArgument)
		}
		return Dir{OnHost, path.Clean(name)}, nil
	}
	index, below, _ := strings.Cut(rest, marker)
	i, err := strconv.Atoi(index)
	if err != nil || strings.Contains(below, marker) {
		return Dir{}, fmt.Errorf("%q names more than one mount: %w", name, errdefs.ErrInvalidArgument)
	}
	if below == "" || below == "/" {
		return Dir{Image: i}, nil
	}
	if below, inImage = strings.CutPrefix(below, "/"); !inImage || !filepath.IsLocal(below) {
		return Dir{}, fmt.Errorf("%q is not below the mount that it names: %w", name, errdefs.ErrInvalidArgument)
	}
	return Dir{i, path.Clean(below)}, nil
}
