package screen

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

func TestFilter(t *testing.T) {
	const replaced = "\ufffd"
	long := strings.Repeat("1;", maxSequence)
	for name, c := range map[string]struct{ text, want string }{
		"text":                             {"a\r\n\tb ä 漢 \u00a0é\a\b", "a\r\n\tb ä 漢 \u00a0é\a\b"},
		"colours":                          {"\x1b[1;31mred\x1b[m\x1b[38;2;1;2;3;48:5:7m", "\x1b[1;31mred\x1b[m\x1b[38;2;1;2;3;48:5:7m"},
		"a line is edited":                 {"\x1b[D\x1b[3C\x1b[K\x1b[J\x1b[2P\x1b[@", "\x1b[D\x1b[3C\x1b[K\x1b[J\x1b[2P\x1b[@"},
		"a full screen":                    {"\x1b[?1049h\x1b[H\x1b[2J\x1b[24;1H\x1b[1;23r\x1bM\x1b7\x1b8\x1b=\x1b[?25l", "\x1b[?1049h\x1b[H\x1b[2J\x1b[24;1H\x1b[1;23r\x1bM\x1b7\x1b8\x1b=\x1b[?25l"},
		"lines to draw with":               {"\x1b(0lqk\x1b(B\x0e\x0f\x1b)0", "\x1b(0lqk\x1b(B\x0e\x0f\x1b)0"},
		"some of several modes":            {"\x1b[?1000;25;1006h", "\x1b[?25h"},
		"the title":                        {"a\x1b]0;title\ab\x1b]2;title\x1b\\c", "abc"},
		"the clipboard":                    {"\x1b]52;c;cm0gLXJmIC8K\a", ""},
		"a link":                           {"\x1b]8;;file:///etc\x1b\\here\x1b]8;;\x1b\\", "here"},
		"a device control string":          {"\x1bPq#0;2;0~-\x1b\\\x1bP$qm\x1b\\\x1bP+q544e\x1b\\x", "x"},
		"other strings":                    {"\x1bXa\x1b\\\x1b^b\x1b\\\x1b_Gc\x1b\\x", "x"},
		"a string that is broken off":      {"\x1b]0;a\x18b\x1b]0;c\x1ad\x1b]0;e\x1b[mf", "bd\x1b[mf"},
		"queries of the device":            {"\x1b[c\x1b[>c\x1b[=c\x1b[0c\x1bZ\x05", ""},
		"queries of its state":             {"\x1b[5n\x1b[6n\x1b[?6n\x1b[?15n\x1b[x\x1b[?25$p\x1b[4$p", ""},
		"queries and jobs of its window":   {"\x1b[18t\x1b[21t\x1b[22;0;0t\x1b[8;1;1t\x1b[2t\x1b]10;?\a\x1b]4;1;?\a", ""},
		"the mouse and the focus":          {"\x1b[?9h\x1b[?1000h\x1b[?1002h\x1b[?1003h\x1b[?1004h\x1b[?1006h", ""},
		"other keys":                       {"\x1b[>4;2m\x1b[>1u\x1b[=1u\x1b[20h\x1b[?66h\x1b[2h", ""},
		"the printer":                      {"\x1b[5i\x1b[?5i\x1b[i", ""},
		"the end of what was scrolled off": {"\x1b[3J\x1bc\x1b[!p\x1b#8a", "a"},
		"tabs":                             {"\x1bH\x1b[3g\x1b[g", ""},
		"another encoding":                 {"\x1b%@\x1b%G\x1b(K\x1b*0\x1bn\x1bNa", "a"},
		"control characters":               {"\x00\x01\x05\x10\x11\x13\x1c\x7fa", "a"},
		"control characters of 8 bits":     {"\x9b6n\x9d0;t\x07\x90q", replaced + "6n" + replaced + "0;t\a" + replaced + "q"},
		"the same as UTF-8":                {"\u009b6n\u009d0;t\u0085", "6n0;t"},
		"letters that have such bytes":     {"À ěÝ 書 \U0001f600", "À ěÝ 書 \U0001f600"},
		"such a letter that is cut off":    {"\xc4\x1b[m\x9b6n\xe6\x9b6n", replaced + "\x1b[m" + replaced + "6n" + replaced + replaced + "6n"},
		"one in a sequence":                {"\x1b[3\x9b6n\x1b\u009b6n\x1b(\x9d0;t", replaced + "6n6n" + replaced + "0;t"},
		"one in a string":                  {"\x1b]0;\x9ct\u009c\x9b6n\x1b\\a", "a"},
		"what turns text around":           {"\u202egnp\u2066\u2028\U000e0041", "gnp"},
		"what is no UTF-8":                 {"\xc3(\xff\xe2\x82\x1b[mx", replaced + "(" + replaced + replaced + replaced + "\x1b[mx"},
		"a large number":                   {"\x1b[9999C\x1b[10000C\x1b[99999b", "\x1b[9999C"},
		"too many numbers":                 {"\x1b[1;2;3H\x1b[1;2C\x1b[1;1;1;1;1T\x1b[1;2s", ""},
		"a long sequence":                  {"\x1b[" + long + "mx\x1b[m", "x\x1b[m"},
		"a sequence in a sequence":         {"\x1b[3\x1b[1mx\x1b\x1b[my\x1b[2\x186nz", "\x1b[1mx\x1b[my6nz"},
		"a line's end in a sequence":       {"\x1b[3\nm\x1b(\n0", "\nm\n0"},
		"other characters in a sequence":   {"\x1b[<1m\x1b[1 q\x1b[1'z\x1b[=1;2m", ""},
		"what has no end":                  {"a\x1b", "a"},
		"a string that has no end":         {"\x1b]0;" + strings.Repeat("a", maxIgnored) + "b", "aab"},
		"a sequence that has no end":       {"\x1b[" + strings.Repeat("1", maxIgnored) + "1x", "1x"},
	} {
		t.Run(name, func(t *testing.T) {
			for size := 1; size <= len(c.text); size++ {
				var f Filter
				var got []byte
				for text := c.text; text != ""; text = text[min(size, len(text)):] {
					got = f.Append(got, []byte(text[:min(size, len(text))]))
				}
				if string(got) != c.want {
					t.Fatalf("parts of %d: %q, want %q", size, got, c.want)
				}
			}
		})
	}
}

// What was changed is taken back, and nothing else.
func TestReset(t *testing.T) {
	for text, want := range map[string]string{
		"text\r\n":                        "",
		"\x1b[6n\x1b]0;t\a\x1b[?1000h":    "",
		"\x1b[31mred":                     undo,
		"\x0e":                            undo,
		"\x1b[?1049h\x1b[2J":              "\x1b[?1049l" + undo,
		"\x1b[?1047;25h\x1b[?1047;25l":    undo,
		"\x1b[?25l\x1b]0;a title that is": undo,
	} {
		var f Filter
		_ = f.Append(nil, []byte(text))
		if got := string(f.Reset()); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got := f.Append(nil, []byte("text")); string(got) != "text" {
			t.Errorf("%q: then %q", text, got)
		}
	}
	// It is itself something that passes.
	var f Filter
	if got := f.Append(nil, []byte(undo)); string(got) != undo {
		t.Errorf("%q is %q", undo, got)
	}
}

// passing is all that a terminal is to see, said in another way than the filter does.
var passing = regexp.MustCompile(`^(?:[\x07-\x0f]|[^\x00-\x1f\x7f]` +
	`|\x1b[78DEM=>]|\x1b[()][0AB]` +
	`|\x1b\[[0-9;]{0,9}[A-GHIKLMPSTXZ@abdefrsu` + "`" + `]|\x1b\[[0-2]?J|\x1b\[[0-9;:]*m|\x1b\[4[hl]` +
	`|\x1b\[\?(?:1|7|25|47|104[789]|2004)(?:;(?:1|7|25|47|104[789]|2004))*[hl])*$`)

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"text ä\r\n", "\x1b[1;31m", "\x1b]52;c;YQ==\a", "\x1bP$qm\x1b\\", "\x1b[6n\x1b[c\x05", "\x1b[?1000;25h", "\u009b6n\x9b6n\xc3", "\x9d0;t\x9c\u009d0;t\u009c", "À ěÝ 書 \xe6\x9b", "\x1b[3\x9b6n\x1b]\u009c", "\x1b(0\x1b[[A\x1b%G",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		var whole, parts Filter
		want := whole.Append(nil, text)
		var got []byte
		for rest := text; len(rest) > 0; {
			n := min(int(cut)%7+1, len(rest))
			got, rest = parts.Append(got, rest[:n]), rest[n:]
			if cap(parts.pending) > 2*maxSequence {
				t.Fatalf("%d bytes wait", cap(parts.pending))
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("in parts %q, whole %q", got, want)
		}
		if !passing.Match(got) {
			t.Errorf("a terminal sees %q", got)
		}
		for _, r := range string(got) {
			if !unicode.IsGraphic(r) && !strings.ContainsRune(allowed+"\x1b", r) {
				t.Errorf("a terminal sees %q", r)
			}
		}
		var again Filter
		if twice := again.Append(nil, got); !bytes.Equal(twice, got) {
			t.Errorf("%q passes as %q", got, twice)
		}
		if len(again.pending) > 0 || again.state != inText {
			t.Errorf("%q ends in a sequence", got)
		}
	})
}
