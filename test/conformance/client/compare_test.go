package client

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const example = `# The comment.
pass TestA
fail TestB because of this
omit TestB/one it does not end
skip TestC
pass TestD
`

func TestExpectations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "example.txt")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	expected, err := readExpectations(file)
	if err != nil {
		t.Fatal(err)
	}
	if pattern := pattern(expected.omitted()); pattern != "^TestB$/^one$" {
		t.Errorf("the pattern of what is omitted is %s", pattern)
	}
	// TestD is not of this run.
	ran := func(name string) bool { return name != "TestD" }
	results := map[string]string{"TestA": fail, "TestB": fail, "TestE": pass}
	differences := expected.compare(results, ran)
	if want := []string{
		"TestA: fail, and should pass",
		"TestE: pass, and the file does not have it",
		"TestC: the file has no reason for skip",
		"TestC: no result, and should skip",
	}; !slices.Equal(differences, want) {
		t.Errorf("differences: %q", differences)
	}
	if err := expected.update(results, ran).write(file); err != nil {
		t.Fatal(err)
	}
	updated, err := os.ReadFile(file)
	if want := `# The comment.
fail TestA
fail TestB because of this
omit TestB/one it does not end
pass TestD
pass TestE
`; err != nil || string(updated) != want {
		t.Errorf("updated to %s", updated)
	}
}
