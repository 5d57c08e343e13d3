package document

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

const (
	root            = "../.."
	troubleshooting = "docs/troubleshooting.md"
)

// classed are the folders of the product whose errors that have a class of errdefs are for its
// users: they come back from a call of containerd.
var classed = []string{"shim", "vm", "guest"}

// spoken are packages whose errors reach a user without a class, or get it from their caller:
// all of them.
var spoken = []string{
	"cmd/msb-install", "ctl/bench", "ctl/check", "ctl/collect", "ctl/command", "ctl/events", "ctl/metrics", "ctl/survey",
	"deploy/containerd", "deploy/kit", "deploy/node", "guest/pod", "internal/smallfile", "shim/config", "shim/trace", "vm/krun/libkrun",
}

// Each error that a user can meet has an entry in the page of troubles, and each entry is an
// error of the code.
func TestTroubles(t *testing.T) {
	code, page := messagesOfCode(t), messagesOfPage(t)
	for _, message := range slices.Sorted(maps.Keys(code)) {
		if page[message] == 0 {
			t.Errorf("%s has no entry for this message of %s, which is to have why and what to do:\n%s", troubleshooting, code[message], message)
		}
	}
	for _, message := range slices.Sorted(maps.Keys(page)) {
		switch {
		case code[message] == "":
			t.Errorf("%s has an entry for a message that is not in the code:\n%s", troubleshooting, message)
		case page[message] > 1:
			t.Errorf("%s has %d entries for\n%s", troubleshooting, page[message], message)
		}
	}
}

var code = regexp.MustCompile("`([^`]+)`")

// messagesOfPage are the entries: what is code in the first column of tables whose head is
// "message". It counts how often each is there.
func messagesOfPage(t *testing.T) map[string]int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, troubleshooting))
	if err != nil {
		t.Fatal(err)
	}
	messages, table := map[string]int{}, false
	for line := range strings.Lines(string(data)) {
		cells := cellsOf(strings.TrimSpace(line))
		switch {
		case len(cells) == 0:
			table = false
		case cells[0] == "message":
			table = true
		case !table || strings.Trim(cells[0], "-") == "":
		default:
			found := code.FindAllStringSubmatch(cells[0], -1)
			if len(found) == 0 || len(cells) != 2 || cells[1] == "" {
				t.Errorf("%s: not a message, and why and what to do: %s", troubleshooting, line)
			}
			for _, match := range found {
				messages[match[1]]++
			}
		}
	}
	return messages
}

// cellsOf are the cells of a line of a table, none if it is none.
func cellsOf(line string) (cells []string) {
	if len(line) < 2 || line[0] != '|' || line[len(line)-1] != '|' {
		return nil
	}
	line = line[1 : len(line)-1]
	for cell := range strings.SplitSeq(strings.ReplaceAll(line, `\|`, "\x00"), "|") {
		cells = append(cells, strings.TrimSpace(strings.ReplaceAll(cell, "\x00", "|")))
	}
	return cells
}

// messagesOfCode are the errors that users meet, each with the place where it is made.
func messagesOfCode(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, dir := range append(slices.Clone(classed), "cmd", "ctl", "deploy", "internal") {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return err
			}
			here, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			p := source{t: t, files: token.NewFileSet(), classed: slices.Contains(classed, strings.Split(here, "/")[0]), spoken: slices.Contains(spoken, here), found: found}
			p.read(path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 100 {
		t.Fatalf("only %d messages in the code: it is not looked at as it is written", len(found))
	}
	return found
}

// A source is one package, which is searched for messages.
type source struct {
	t               *testing.T
	files           *token.FileSet
	classed, spoken bool
	makers          map[string]bool // functions that give their format a class
	known           map[ast.Node]bool
	found           map[string]string
}

func (s *source) read(dir string) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		s.t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			continue
		}
		file, err := parser.ParseFile(s.files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			s.t.Fatal(err)
		}
		files = append(files, file)
	}
	s.makers, s.known = map[string]bool{}, map[ast.Node]bool{}
	for range 2 { // one that calls one
		for _, file := range files {
			s.findMakers(file)
		}
	}
	for _, file := range files {
		ast.Inspect(file, s.visit)
	}
	for _, file := range files {
		ast.Inspect(file, s.leftOver)
	}
}

// findMakers finds functions with a format of their caller's.
func (s *source) findMakers(file *ast.File) {
	for _, decl := range file.Decls {
		f, isFunc := decl.(*ast.FuncDecl)
		if !isFunc || f.Recv != nil || f.Body == nil || len(f.Type.Params.List) == 0 || len(f.Type.Params.List[0].Names) == 0 || f.Type.Params.List[0].Names[0].Name != "format" {
			continue
		}
		ast.Inspect(f.Body, func(node ast.Node) bool {
			call, isCall := node.(*ast.CallExpr)
			if isCall && (s.makers[nameOf(call.Fun)] || nameOf(call.Fun) == "fmt.Errorf" && len(s.classesIn(call)) > 0) {
				s.makers[f.Name.Name] = true
			}
			return true
		})
	}
}

func (s *source) visit(node ast.Node) bool {
	switch node := node.(type) {
	case *ast.CallExpr:
		s.call(node)
	case *ast.CaseClause:
		s.know(node.List...) // compared
	case *ast.BinaryExpr:
		s.know(node) // compared
	}
	return true
}

func (s *source) call(call *ast.CallExpr) {
	name := nameOf(call.Fun)
	switch {
	case s.makers[name]:
	case name == "fmt.Errorf" || name == "errors.New":
		if classes := s.classesIn(call); s.classed && len(classes) > 0 {
			s.know(call)
			break
		}
		if s.spoken {
			break
		}
		return
	case name == "errors.Is" || name == "errors.As" || strings.HasPrefix(name, "strings.") || strings.HasPrefix(name, "errdefs."):
		s.know(call)
		return
	default:
		return
	}
	text, isText := textOf(call.Args[0])
	ending, classes := "", s.classesIn(call)
	if s.makers[name] || len(classes) > 0 {
		text = class.ReplaceAllString(text, "")
	}
	if len(classes) > 0 {
		ending = said[classes[len(classes)-1].Sel.Name]
	}
	message := normal(text)
	if !isText || !strings.ContainsFunc(message, unicode.IsLetter) {
		return // it has the words of another
	}
	message += ending
	s.found[message] = s.place(call)
}

func (s *source) place(node ast.Node) string {
	position := s.files.Position(node.Pos())
	return strings.TrimPrefix(position.Filename, root+"/") + ":" + strconv.Itoa(position.Line)
}

func (s *source) know(nodes ...ast.Expr) {
	for _, node := range nodes {
		for _, class := range s.classesIn(node) {
			s.known[class] = true
		}
	}
}

// elsewhere are files that give a class to errors whose words are others'.
var elsewhere = []string{
	"guest/transfer/helper.go",  // the kernel's errors in a container
	"shim/guest/client.go",      // what ended the VM
	"shim/resolver/resolver.go", // an answer that is no text
}

// leftOver finds errors with a class which are made in another way than those that this test
// understands.
func (s *source) leftOver(node ast.Node) bool {
	selector, is := node.(*ast.SelectorExpr)
	if !is || !s.classed || !isClass(selector) || s.known[selector] {
		return true
	}
	if place := s.place(selector); !slices.Contains(elsewhere, strings.Split(place, ":")[0]) {
		s.t.Errorf("%s: %s is given to an error in a way that this test does not see: make it with fmt.Errorf and a text", place, selector.Sel.Name)
	}
	return true
}

func (s *source) classesIn(node ast.Node) (found []*ast.SelectorExpr) {
	ast.Inspect(node, func(node ast.Node) bool {
		if selector, is := node.(*ast.SelectorExpr); is && isClass(selector) {
			found = append(found, selector)
		}
		return true
	})
	return found
}

func isClass(selector *ast.SelectorExpr) bool {
	return strings.HasPrefix(nameOf(selector), "errdefs.Err")
}

func nameOf(expr ast.Expr) string {
	switch expr := expr.(type) {
	case *ast.Ident:
		return expr.Name
	case *ast.SelectorExpr:
		return nameOf(expr.X) + "." + expr.Sel.Name
	}
	return ""
}

// textOf is the text of a literal, or of several that are added up.
func textOf(expr ast.Expr) (text string, is bool) {
	switch expr := expr.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(expr.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, isLeft := textOf(expr.X)
		right, isRight := textOf(expr.Y)
		return left + right, isLeft && isRight
	}
	return "", false
}

var (
	verb  = regexp.MustCompile(`%[-+# 0]*(\[\d+\])?[\d*]*(\.[\d*]*)?(\[\d+\])?[a-zA-Z]`)
	class = regexp.MustCompile(`(: | \()%w\)?$`)
)

// said are classes that are the end of what an error says: "task web: not found".
var said = map[string]string{"ErrNotFound": ": not found", "ErrAlreadyExists": ": already exists"}

// normal is a message as the page has it, without its class: "…" for what varies.
func normal(format string) string {
	message := verb.ReplaceAllString(format, "…")
	message = strings.ReplaceAll(strings.ReplaceAll(message, "%%", "%"), "……", "…")
	return strings.Join(strings.Fields(message), " ")
}
