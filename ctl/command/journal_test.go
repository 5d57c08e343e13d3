package command

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

// hostile is text with which a guest would do something to a terminal, or to who reads it: a
// title, colours, C1 controls, lines, another direction, what is no UTF-8, and tags.
const hostile = "a\x1b]0;title\x07\x1b[31m\u009b2J\r\n\x00\x7f\u202edrawkcab\u2028\xff\xc3(\t\U000e0041 ä"

func TestVisible(t *testing.T) {
	const want = `a\x1b]0;title\a\x1b[31m\u009b2J\r\n\x00\x7f\u202edrawkcab\u2028\xff\xc3(\t\U000e0041 ä`
	if got := visible(hostile); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Whatever a line has, nothing but printable characters and the ends of lines come out, one for
// each line, and JSON tells programs what it was.
func TestHostileLines(t *testing.T) {
	now := time.Now()
	for _, form := range []linePrinter{
		{text: printLog},
		{text: printConsole},
		{text: printLog, object: logJSON},
		{text: printConsole, object: consoleJSON},
	} {
		for _, text := range []string{hostile, `level=info msg="` + hostile + `"`, "msg=" + hostile, `level=info msg="\x1b[2J` + "\u202e" + `" a=` + "\u009b"} {
			var out, errs bytes.Buffer
			p := form
			p.out, p.errs = &out, &errs
			if err := p.print(survey.Batch{Lines: []survey.Line{{Time: now, Text: text}}}); err != nil {
				t.Fatal(err)
			}
			line, found := strings.CutSuffix(out.String(), "\n")
			if !found || strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar && form.object == nil }) >= 0 {
				t.Errorf("%q became %q", text, out.String())
			}
			if form.object != nil && !json.Valid([]byte(line)) {
				t.Errorf("%q became %s", text, line)
			}
		}
	}
	var out bytes.Buffer
	if err := printObject(&out, consoleJSON(survey.Line{Text: strings.ToValidUTF8(hostile, "?")})); err != nil {
		t.Fatal(err)
	}
	var back struct{ Text string }
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back.Text != strings.ToValidUTF8(hostile, "?") {
		t.Errorf("%q, %v", back.Text, err)
	}
}

func TestLogJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for text, want := range map[string]string{
		`time="x" level=info msg="a \"b\" c" id=web error=""`: `{"time":"2026-01-02T03:04:05.000000006Z","level":"info","message":"a \"b\" c","fields":{"error":"","id":"web"}}`,
		`level=info msg=plain`:                                `{"time":"2026-01-02T03:04:05.000000006Z","level":"info","message":"plain"}`,
		`no fields at all`:                                    `{"time":"2026-01-02T03:04:05.000000006Z","message":"no fields at all"}`,
		`a b=c`:                                               `{"time":"2026-01-02T03:04:05.000000006Z","message":"a b=c"}`,
		`msg="x"y`:                                            `{"time":"2026-01-02T03:04:05.000000006Z","message":"msg=\"x\"y"}`,
	} {
		var out bytes.Buffer
		if err := printObject(&out, logJSON(survey.Line{Time: at, Text: text})); err != nil || out.String() != want+"\n" {
			t.Errorf("%s: %v, %s", text, err, &out)
		}
	}
}

func TestLost(t *testing.T) {
	var out, errs bytes.Buffer
	p := linePrinter{out: &out, errs: &errs, text: printLog}
	for _, b := range []survey.Batch{{Lost: 3}, {Lines: []survey.Line{{Text: "x"}}}, {Lost: 2, Lines: []survey.Line{{Text: "y"}}}} {
		if err := p.print(b); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != "x\ny\n" || errs.String() != "msbctl: 3 lines from before are kept no longer\nmsbctl: 2 lines are lost: they came faster than they were read\n" {
		t.Errorf("%q, %q", &out, &errs)
	}
	out.Reset()
	p.object = consoleJSON
	if err := p.print(survey.Batch{Lost: 4}); err != nil || out.String() != "{\"lost\":4}\n" {
		t.Errorf("%v, %q", err, &out)
	}
}

func TestReadUsage(t *testing.T) {
	state := t.TempDir()
	for args, want := range map[string]struct {
		code   int
		stderr string
	}{
		"log":                             {exitUsage, "it is msbctl log ID"},
		"console a b":                     {exitUsage, "2 arguments"},
		"log x --folow":                   {exitUsage, "folow"},
		"console --state " + state + " x": {exitFailed, `begins with "x"`},
	} {
		if _, stderr, code := run(t, strings.Fields(args)...); code != want.code || !strings.Contains(stderr, want.stderr) {
			t.Errorf("msbctl %s: code %d, %q", args, code, stderr)
		}
	}
	if stdout, _, code := run(t, "--help"); code != 0 || !strings.Contains(stdout, "of spare drain one that has not ended") {
		t.Errorf("code %d, %s", code, stdout)
	}
}
