package cgroup

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Path is the path below the hierarchy's root of the group that a spec's
// linux.cgroupsPath names, or "" if it names none. It has one of two forms
// (runtime-spec, config-linux.md; runc, docs/systemd.md):
//
//	/a/b                   the path itself
//	slice:prefix:name      the path of systemd's unit prefix-name.scope in slice
//
// The path is made to stay below the root: the spec's author may not be root.
func Path(cgroupsPath string) (string, error) {
	if cgroupsPath == "" {
		return "", nil
	}
	parts := strings.Split(cgroupsPath, ":")
	switch len(parts) {
	case 1:
		return clean(cgroupsPath)
	case 3:
		slice, err := slicePath(parts[0])
		if err != nil {
			return "", err
		}
		unit := parts[2]
		if !strings.HasSuffix(unit, ".slice") {
			unit += ".scope"
			if parts[1] != "" {
				unit = parts[1] + "-" + unit
			}
		}
		if strings.Contains(unit, "/") {
			return "", malformed(cgroupsPath)
		}
		return path.Join(slice, unit), nil
	}
	return "", malformed(cgroupsPath)
}

func clean(p string) (string, error) {
	cleaned := path.Clean("/" + p)
	if cleaned == "/" {
		return "", malformed(p)
	}
	return cleaned, nil
}

// slicePath expands a slice to its path: a-b.slice is in a.slice (systemd.slice(5)).
func slicePath(slice string) (string, error) {
	if slice == "" {
		slice = "system.slice"
	}
	name, isSlice := strings.CutSuffix(slice, ".slice")
	if !isSlice || strings.ContainsAny(name, "/:") {
		return "", malformed(slice)
	}
	if name == "-" { // the root slice
		return "/", nil
	}
	expanded := "/"
	words := strings.Split(name, "-")
	for i, word := range words {
		if word == "" {
			return "", malformed(slice)
		}
		expanded = path.Join(expanded, strings.Join(words[:i+1], "-")+".slice")
	}
	return expanded, nil
}

func malformed(p string) error {
	return fmt.Errorf("linux.cgroupsPath: %q is neither a path below the hierarchy's root nor slice:prefix:name: %w", p, errdefs.ErrInvalidArgument)
}
