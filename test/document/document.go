// Package document holds tables in documents to what tests know.
package document

import (
	"os"
	"strings"
	"testing"
)

// A Place is where a table stands in a document: between two lines of it.
type Place struct {
	Path, Begin, End string
	// Writes is the command that writes the table.
	Writes string
}

// Holds fails the test if the document has another table than this text, or writes the text
// there.
func (p Place) Holds(t *testing.T, text string, write bool) {
	t.Helper()
	document, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(document), p.Begin)
	old, after, foundEnd := strings.Cut(rest, p.End)
	switch {
	case !found || !foundEnd:
		t.Errorf("%s has no place for the table", p.Path)
	case write:
		if err := os.WriteFile(p.Path, []byte(before+p.Begin+text+p.End+after), 0o644); err != nil {
			t.Error(err)
		}
	case old != text:
		t.Errorf("%s has another table: %q writes it", p.Path, p.Writes)
	}
}
