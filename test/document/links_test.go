package document

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#+ +(.*)$`)
	inline  = regexp.MustCompile("``[^`].*?``|`[^`]*`")
)

// Every link of a document to another file, or to a section of one, leads there.
func TestLinks(t *testing.T) {
	pages, links := documents(t), 0
	for _, page := range pages {
		for _, target := range linksOf(t, page) {
			links++
			path, section, _ := strings.Cut(target, "#")
			if path == "" {
				path = page
			} else {
				path = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s has a link to %s, and there is no %s", page, target, path)
				continue
			}
			if section != "" && !slices.Contains(sectionsOf(t, path), section) {
				t.Errorf("%s has a link to %s, and %s has no such heading", page, target, path)
			}
		}
	}
	if links < 100 {
		t.Errorf("only %d links in %d documents: they are not looked at as they are written", links, len(pages))
	}
}

// Every page of docs is in its index, and every record of a decision in the index of those. The
// README leads to the first, and the first to the second. Each page leads back to its index, and
// that of docs to the README.
func TestIndex(t *testing.T) {
	const index, decisions = "docs/README.md", "docs/decisions/README.md"
	linked := map[string][]string{}
	for _, page := range []string{"README.md", index, decisions} {
		for _, target := range linksOf(t, page) {
			path, _, _ := strings.Cut(target, "#")
			linked[page] = append(linked[page], filepath.Join(filepath.Dir(page), path))
		}
	}
	if !slices.Contains(linked["README.md"], index) {
		t.Errorf("README.md has no link to %s", index)
	}
	for _, page := range documents(t) {
		from := ""
		switch dir := filepath.Dir(page); {
		case page == index:
		case page == decisions || dir == "docs" || dir == ".":
			from = index
		case dir == "docs/decisions":
			from = decisions
		}
		if from != "" && !slices.Contains(linked[from], page) {
			t.Errorf("%s has no link to %s", from, page)
		}
		back := from
		switch {
		case page == index:
			back = "README.md"
		case from == decisions || filepath.Dir(page) == ".": // a record is read from its index
			continue
		}
		if !slices.ContainsFunc(linksOf(t, page), func(target string) bool { return filepath.Join(filepath.Dir(page), target) == back }) {
			t.Errorf("%s has no link to %s, from where it was reached", page, back)
		}
	}
}

// documents are the Markdown files that people read.
func documents(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil || len(pages) < 20 {
		t.Fatal(len(pages), err)
	}
	for i, page := range pages {
		if pages[i], err = filepath.Rel(root, page); err != nil {
			t.Fatal(err)
		}
	}
	return pages
}

// linksOf are the links of a page, but for those that lead out of the project.
func linksOf(t *testing.T, page string) (links []string) {
	t.Helper()
	for _, line := range prose(t, page) {
		for _, match := range link.FindAllStringSubmatch(inline.ReplaceAllString(line, "x"), -1) {
			if !strings.Contains(match[1], "://") && !strings.HasPrefix(match[1], "mailto:") {
				links = append(links, match[1])
			}
		}
	}
	return links
}

// sectionsOf are the names that GitHub gives the headings of a page.
func sectionsOf(t *testing.T, page string) (names []string) {
	t.Helper()
	for _, line := range prose(t, page) {
		match := heading.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil {
			continue
		}
		name := nameOfSection(match[1])
		for n, first := 1, name; slices.Contains(names, name); n++ {
			name = first + "-" + strconv.Itoa(n)
		}
		names = append(names, name)
	}
	return names
}

func nameOfSection(heading string) string {
	heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// prose are the lines of a page that are in no block of code.
func prose(t *testing.T, page string) (lines []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	code := false
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
			continue
		}
		if !code {
			lines = append(lines, line)
		}
	}
	return lines
}
