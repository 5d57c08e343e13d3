package record

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRecord(t *testing.T) {
	type note struct{ Pid int }
	dir := t.TempDir()
	if found, err := Read[note](dir, "note.json"); found != nil || err != nil {
		t.Errorf("without one: %v, %v", found, err)
	}
	for pid := range 2 {
		if err := Write(dir, "note.json", note{pid}); err != nil {
			t.Fatal(err)
		}
		if found, err := Read[note](dir, "note.json"); err != nil || *found != (note{pid}) {
			t.Errorf("read %v, %v", found, err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
	for range 2 {
		if err := Remove(dir, "note.json"); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "note.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := Read[note](dir, "note.json"); found != nil || err == nil {
		t.Errorf("a damaged one: %v, %v", found, err)
	}
}
