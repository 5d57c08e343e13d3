package expect

import (
	"slices"
	"strings"
	"testing"
)

// file is in the form that Write gives it.
const file = `# A comment.

passed             both pass
failed@podsandbox  differs # cannot be
passed@shim        differs
failed             fails # no such image
omitted            not run # does not end
skipped@shim       one sandboxer only # reason?
`

func parsed(t *testing.T, text string) *Expectations {
	t.Helper()
	e, err := Parse(strings.NewReader(text), Sandboxers)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestParseAndWrite(t *testing.T) {
	for _, c := range []struct{ name, in, out string }{
		{"as it is", file, file},
		{"sorted", "passed b\npassed a\n", "passed             a\npassed             b\n"},
		{"two lines that agree become one", "failed@shim a # why\nfailed@podsandbox a # why\n", "failed             a # why\n"},
		{"two reasons stay two lines", "failed@shim a # one\nfailed@podsandbox a # other\n", "failed@podsandbox  a # other\nfailed@shim        a # one\n"},
		{"a pass needs no reason", "passed a # because\n", "passed             a\n"},
		{"a name with odd characters", "passed [k8s.io] 'x'=y (z) [Conformance]\n", "passed             [k8s.io] 'x'=y (z) [Conformance]\n"},
		{"comments between specs go", "passed a\n# gone\n", "passed             a\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out := parsed(t, c.in).String(); out != c.out {
				t.Errorf("written as\n%s\nwant\n%s", out, c.out)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"passes a", `line 1: "passes" is no result`},
		{"\npassed@vm a", `line 2: "vm" is no variant of this suite`},
		{"passed", "line 1: a test has no name"},
		{"failed a", "line 1: a: no reason why it is expected to be failed"},
		{"skipped a # ", "line 1: a: no reason why it is expected to be skipped"},
		{"passed a\nfailed@shim a # why", "line 2: a: a second line for shim"},
	} {
		if _, err := Parse(strings.NewReader(c.in), Sandboxers); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.in, err, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	e := parsed(t, file)
	for _, c := range []struct {
		sandboxer, name string
		result          Result
		want            string
	}{
		{"shim", "both pass", Passed, ""},
		{"podsandbox", "both pass", Failed, "failed, expected to have passed"},
		{"shim", "both pass", Skipped, "skipped, expected to have passed"},
		{"shim", "fails", Failed, ""},
		{"shim", "fails", Passed, "passed, expected to have failed: no such image"},
		{"shim", "fails", Skipped, "skipped, expected to have failed: no such image"},
		{"podsandbox", "differs", Failed, ""},
		{"shim", "differs", Failed, "failed, expected to have passed"},
		{"shim", "one sandboxer only", Skipped, "skipped as expected, but the file has no reason for it"},
		{"podsandbox", "one sandboxer only", Skipped, "skipped, and the file does not have it"},
		{"shim", "new", Passed, "passed, and the file does not have it"},
	} {
		text := ""
		if err := e.Compare(c.sandboxer, c.name, c.result); err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s %s %s: %q, want %q", c.sandboxer, c.name, c.result, text, c.want)
		}
	}
}

func TestMissing(t *testing.T) {
	e, all := parsed(t, file), func(string) bool { return true }
	results := map[string]Result{"both pass": Failed, "new": Passed}
	if missing, want := e.Missing("podsandbox", results, all), []string{"differs", "fails"}; !slices.Equal(missing, want) {
		t.Errorf("%q are missing, want %q", missing, want)
	}
	selected := func(name string) bool { return name != "fails" }
	if missing, want := e.Missing("podsandbox", results, selected), []string{"differs"}; !slices.Equal(missing, want) {
		t.Errorf("%q of the selected are missing, want %q", missing, want)
	}
	if omitted, want := e.Omitted("shim"), []string{"not run"}; !slices.Equal(omitted, want) {
		t.Errorf("%q are omitted, want %q", omitted, want)
	}
}

// A suite without variants has a line for each test.
func TestSingle(t *testing.T) {
	e, err := Parse(strings.NewReader("passed a\nfailed b # why\n"), Single)
	if err != nil {
		t.Fatal(err)
	}
	e.Update("", map[string]Result{"a": Failed, "c": Passed}, []string{"b"})
	if out, want := e.String(), "failed             a # reason?\npassed             c\n"; out != want {
		t.Errorf("written as\n%s\nwant\n%s", out, want)
	}
	for _, text := range []string{"passed a\npassed a\n", "passed@shim a\n"} {
		if _, err := Parse(strings.NewReader(text), Single); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestUpdate(t *testing.T) {
	for _, c := range []struct {
		name, in  string
		sandboxer string
		results   map[string]Result
		out       string
	}{
		{"a reason stays", "failed a # why\n", "shim", map[string]Result{"a": Failed}, "failed             a # why\n"},
		{"one sandboxer is better now", "failed a # why\n", "shim", map[string]Result{"a": Passed}, "failed@podsandbox  a # why\npassed@shim        a\n"},
		{"then the other", "failed@podsandbox a # why\npassed@shim a\n", "podsandbox", map[string]Result{"a": Passed}, "passed             a\n"},
		{"a failure that is new", "passed a\n", "podsandbox", map[string]Result{"a": Failed}, "failed@podsandbox  a # reason?\npassed@shim        a\n"},
		{"the other's reason", "passed@podsandbox a\nfailed@shim a # why\n", "podsandbox", map[string]Result{"a": Failed}, "failed             a # why\n"},
		{"another result is another reason", "failed a # why\n", "podsandbox", map[string]Result{"a": Skipped}, "skipped@podsandbox a # reason?\nfailed@shim        a # why\n"},
		{"a spec that is new", "", "shim", map[string]Result{"a": Skipped}, "skipped            a # reason?\n"},
		{"a spec that did not run", "passed a\n", "shim", nil, "passed             a\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := parsed(t, c.in)
			e.Update(c.sandboxer, c.results, nil)
			if out := e.String(); out != c.out {
				t.Errorf("written as\n%s\nwant\n%s", out, c.out)
			}
		})
	}
}

func TestUpdateDropsTheMissing(t *testing.T) {
	e := parsed(t, "passed a\npassed b\npassed@shim c\n")
	e.Update("shim", nil, []string{"b", "c"})
	if out, want := e.String(), "passed             a\npassed@podsandbox  b\n"; out != want {
		t.Errorf("written as\n%s\nwant\n%s", out, want)
	}
}
