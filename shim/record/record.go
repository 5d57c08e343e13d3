// Package record keeps notes in a bundle: what the shim's delete action has to know when
// the shim was killed (containerd, docs/runtime-v2.md).
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces a note. Who reads finds the old one or the new one.
func Write(bundle, name string, note any) error {
	data, err := json.Marshal(note)
	if err != nil {
		return err
	}
	file := filepath.Join(bundle, name)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Read returns a note; nil means that there is none.
func Read[Note any](bundle, name string) (*Note, error) {
	data, err := os.ReadFile(filepath.Join(bundle, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	note := new(Note)
	if err := json.Unmarshal(data, note); err != nil {
		return nil, fmt.Errorf("%s of %s is damaged: %w", name, bundle, err)
	}
	return note, nil
}

// Remove removes a note, if there is one.
func Remove(bundle, name string) error {
	err := os.Remove(filepath.Join(bundle, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
