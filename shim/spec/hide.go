package spec

import (
	"path"
	"strings"
)

// AnnotationHide says for all mounted directories of a container what the option x-msb.hide
// says for one.
const AnnotationHide = annotationPrefix + "mounts.hide"

const hideOption = optionPrefix + "hide"

// maxHidden is how many paths one mount, or the annotation, may hide.
const maxHidden = 10_000

// hide takes in an option that hides paths. Several add up.
func (b *Bind) hide(option string) error {
	_, list, _ := strings.Cut(option, "=")
	paths, err := hiddenPaths("mount "+b.Destination+": option "+hideOption, list)
	if err != nil {
		return err
	}
	b.Hide = append(b.Hide, paths...)
	if len(b.Hide) > maxHidden {
		return invalid("mount %s: it hides %d paths; at most %d may be: hide a directory that they are in", b.Destination, len(b.Hide), maxHidden)
	}
	return nil
}

// checkHide refuses what is to hide paths and is no directory of the host.
func (b *Bind) checkHide(ofHost bool) error {
	if len(b.Hide) > 0 && !ofHost {
		return invalid("mount %s: option %s is for directories of the host, and this is the guest's own: leave it out", b.Destination, hideOption)
	}
	return nil
}

// hideEverywhere are the paths that annotations hide in every mounted directory.
func hideEverywhere(annotations map[string]string) ([]string, error) {
	list, given := annotations[AnnotationHide]
	if !given {
		return nil, nil
	}
	return hiddenPaths("annotation "+AnnotationHide, list)
}

// hiddenPaths reads a list of paths that are separated by commas. A backslash is before a
// comma, or a backslash, that is of a name.
func hiddenPaths(of, list string) ([]string, error) {
	var paths []string
	var name strings.Builder
	end := func() error {
		clean, err := hiddenPath(of, name.String())
		name.Reset()
		paths = append(paths, clean)
		if err == nil && len(paths) > maxHidden {
			err = invalid("%s: more than %d paths: hide a directory that they are in", of, maxHidden)
		}
		return err
	}
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == ',':
			if err := end(); err != nil {
				return nil, err
			}
		case c != '\\':
			name.WriteByte(c)
		case i+1 < len(list) && isAny(list[i+1:i+2], ",", `\`):
			i++
			name.WriteByte(list[i])
		default:
			return nil, invalid(`%s: %.64q: a backslash is before a comma or a backslash only: write \\ for one in a name`, of, list)
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	return paths, nil
}

// hiddenPath is a path below a source in its shortest form.
func hiddenPath(of, name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case name == "":
		return "", invalid("%s: an empty path in the list: name something below the source", of)
	case len(name) > maxPath:
		return "", invalid("%s: a path of %d bytes; one has %d at most", of, len(name), maxPath)
	case strings.ContainsRune(name, 0):
		return "", invalid("%s: path %.64q contains a NUL byte", of, name)
	case path.IsAbs(name):
		return "", invalid("%s: path %.64q is absolute: give it as it is below the source", of, name)
	case isAny("..", strings.Split(name, "/")...):
		return "", invalid("%s: path %.64q leads out of the source: give it as it is below the source, without ..", of, name)
	case clean == ".":
		return "", invalid("%s: path %.64q is the source itself: leave out the mount", of, name)
	}
	return clean, nil
}
