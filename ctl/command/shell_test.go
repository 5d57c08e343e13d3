package command

import (
	"bytes"
	"strings"
	"testing"
)

// A terminal gets nothing that it would act upon, however the text is cut.
func TestEscaper(t *testing.T) {
	const want = `a\x1b]0;title\a\x1b[31m\u009b2J\r` + "\n" + `\x00\x7f\u202edrawkcab\u2028\xff\xc3(` + "\t" + `\U000e0041 ä` + "\n"
	for size := 1; size < 8; size++ {
		var out bytes.Buffer
		e := &escaper{out: &out}
		for text := hostile + "\n"; text != ""; text = text[min(size, len(text)):] {
			if n, err := e.Write([]byte(text[:min(size, len(text))])); err != nil || n != min(size, len(text)) {
				t.Fatal(n, err)
			}
		}
		if out.String() != want {
			t.Errorf("pieces of %d: %q, want %q", size, &out, want)
		}
	}
	if w := forTerminal(new(bytes.Buffer)); w == nil {
		t.Error("nothing")
	} else if _, isEscaper := w.(*escaper); isEscaper {
		t.Error("what is no terminal gets something else than was printed")
	}
}

func TestShellUsage(t *testing.T) {
	state := t.TempDir()
	for args, want := range map[string]struct {
		code   int
		stderr string
	}{
		"shell x --tools /t":                               {exitUsage, "is given 1 arguments"},
		"shell x -- busybox":                               {exitUsage, "tools"},
		"shell x --tols /t -- busybox":                     {exitUsage, "tols"},
		"shell x --tools /t --state " + state + " -- b -l": {exitFailed, `begins with "x"`},
	} {
		if _, stderr, code := run(t, strings.Fields(args)...); code != want.code || !strings.Contains(stderr, want.stderr) {
			t.Errorf("msbctl %s: code %d, %q", args, code, stderr)
		}
	}
}
