package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

// c1 is text with control characters of 8 bits (C1): CSI, OSC and ST, DCS, NEL, as bytes of their
// own and in UTF-8; and letters in whose UTF-8 the same bytes are.
const (
	c1Bytes   = "\x9b31mred\x9d0;title\x9c\x90q\x85"
	c1Runes   = "\u009b31mred\u009d0;title\u009c\u0090q\u0085"
	c1Letters = "À ěÝ 書 \U0001f600" // c3 80, c4 9b, c3 9d, e6 9b b8, f0 9f 98 80
)

func TestVisibleC1(t *testing.T) {
	for text, want := range map[string]string{
		c1Bytes:         `\x9b31mred\x9d0;title\x9c\x90q\x85`,
		c1Runes:         `\u009b31mred\u009d0;title\u009c\u0090q\u0085`,
		c1Letters:       c1Letters,
		"\xc3\x9b":      "Û",
		"\xc3\xc2\x9b":  `\xc3\u009b`,
		"\xe6\x9b":      `\xe6\x9b`,
		"a\xf0\x9f\x9b": `a\xf0\x9f\x9b`,
		"\x9b\xb8":      `\x9b\xb8`,
	} {
		if got := visible(text); got != want {
			t.Errorf("%q is shown as %s, want %s", text, got, want)
		}
	}
}

// What others have named is shown so that a terminal acts upon nothing of it: a directory that
// is mounted, a process.
func TestInspectionOfHostileNames(t *testing.T) {
	for _, name := range []string{hostile, c1Bytes, c1Runes} {
		i := survey.Inspection{
			Sandbox:   survey.Sandbox{ID: "web", Cgroup: name, Network: name},
			Processes: []survey.Process{{Name: name}}, Shares: []survey.Share{{Path: name}},
		}
		var plain, object bytes.Buffer
		if err := errors.Join(printInspection(&plain, i, time.Now()), printJSON(&object, i)); err != nil {
			t.Fatal(err)
		}
		for _, got := range []string{plain.String(), object.String()} {
			if acts := strings.IndexFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); acts >= 0 || !utf8.ValidString(got) {
				t.Errorf("%q is shown as\n%q", name, got)
			}
		}
		if rows := strings.Count(plain.String(), visible(name)); rows != 4 {
			t.Errorf("%q is in %d places:\n%s", name, rows, &plain)
		}
		var back survey.Inspection
		if err := json.Unmarshal(object.Bytes(), &back); err != nil || back.Shares[0].Path != string([]rune(name)) {
			t.Errorf("%q, %v", back.Shares[0].Path, err)
		}
	}
}

// An error may have words of others, too. Its lines stay.
func TestHostileError(t *testing.T) {
	var out, errs bytes.Buffer
	Main(t.Context(), []string{"msbctl", "inspect", "a\u009b2J\x9d", "b\x1b[2J"}, &out, &errs)
	Main(t.Context(), []string{"msbctl", "a\u009b2J\x9d\x1b[2J"}, &out, &errs)
	for _, r := range errs.String() {
		if r != '\n' && r != '\t' && (!unicode.IsPrint(r) || r == utf8.RuneError) {
			t.Errorf("a terminal sees %q: %q", r, &errs)
		}
	}
}

// Whatever comes, and wherever it is cut, a terminal is shown what is printable, and that is as
// it was.
func FuzzEscaper(f *testing.F) {
	for _, seed := range []string{hostile, c1Bytes, c1Runes, c1Letters, "\xc2", "\xe6\x9b", "\xf0\x9f\x9b\x9b", "lines\n\tä"} {
		f.Add([]byte(seed), uint8(1))
	}
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		var whole, parts bytes.Buffer
		for out, size := range map[*bytes.Buffer]int{&whole: max(1, len(text)), &parts: int(cut)%5 + 1} {
			e := &escaper{out: out}
			for rest := text; len(rest) > 0; rest = rest[min(size, len(rest)):] {
				if _, err := e.Write(rest[:min(size, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !bytes.Equal(whole.Bytes(), parts.Bytes()) {
			t.Errorf("in parts %q, whole %q", &parts, &whole)
		}
		shown := whole.String()
		if !utf8.ValidString(shown) || strings.ContainsFunc(shown, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }) {
			t.Errorf("a terminal sees %q", shown)
		}
		if isText := !strings.ContainsFunc(string(text), func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' }); isText && utf8.Valid(text) && shown != string(text) {
			t.Errorf("%q is shown as %q", text, shown)
		}
	})
}

// What could not be printed is told, whichever command it was.
func TestFullOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	empty := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"--help", "--version", "config default", "config show " + empty, "config validate " + empty, "config validate /no/file", "spare --root /no/spares drain", "check --help"} {
		var errs bytes.Buffer
		code := Main(t.Context(), append([]string{"msbctl"}, strings.Fields(args)...), full, &errs)
		if code != exitFailed || strings.Count(errs.String(), "no space left on device") != 1 {
			t.Errorf("msbctl %s: code %d, %q", args, code, &errs)
		}
	}
}
