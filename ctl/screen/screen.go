// Package screen says what a program that may be hostile can have a terminal do. Its program is drawn:
// text, colours, the cursor, the alternate screen. Nothing else passes: nothing that has the terminal
// type, which would be input for who reads it next (answers to queries, reports of the mouse), that
// reaches beyond the screen (title, clipboard, files, printers), or that outlasts the program.
//
// It is a list of what passes, with the rest left out, because terminals act upon more than any list of
// what is dangerous has (xterm, ctlseqs). What passes is passed whole: a terminal never sees the
// beginning of a sequence only. The states are those of DEC's terminals (vt100.net/emu/dec_ansi_parser).
package screen

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	bell      = 0x07
	cancel    = 0x18
	subst     = 0x1a
	escape    = 0x1b
	shiftOut  = 0x0e
	allowed   = "\a\b\t\n\v\f\r\x0e\x0f" // control characters
	simple    = "78DEM=>"                // of ESC and one: save, restore, move the cursor; the keypad
	charsets  = "0AB"                    // of ESC ( and ESC ): lines to draw with, United Kingdom, ASCII
	openers   = "]PX^_"                  // of ESC and one: begin a string: OSC, DCS, SOS, PM, APC
	alternate = "?1049"
)

const (
	// maxSequence is how long a sequence may be, in bytes.
	maxSequence = 64
	// maxIgnored is how much is left out, in bytes, as what a sequence that does not end has.
	maxIgnored = 4 << 10
	// maxDigits of a number: who repeats a character, or moves, does it so often at most.
	maxDigits = 4
)

// controls are the control sequences (CSI) that pass, by their last character, with how many numbers
// they may have. J, h and l are further narrowed.
var controls = map[byte]int{
	'A': 1, 'B': 1, 'C': 1, 'D': 1, 'E': 1, 'F': 1, 'G': 1, 'd': 1, 'e': 1, 'a': 1, '`': 1, 'H': 2, 'f': 2, // move the cursor
	'I': 1, 'Z': 1, // to the next and last tab
	's': 0, 'u': 0, // save and restore the cursor
	'J': 1, 'K': 1, 'X': 1, 'P': 1, '@': 1, 'L': 1, 'M': 1, 'b': 1, // erase, delete, insert, repeat
	'r': 2, 'S': 1, 'T': 1, // scroll, in a part of the screen
	'm': maxSequence, // colours and styles
	'h': 1, 'l': 1,   // set a mode, and reset it
}

// modes are those of CSI ? h and l that pass: of the cursor keys, of wrapping lines, whether the cursor
// is shown, the alternate screen in its several forms, and a paste that is marked as one.
var modes = []string{"1", "7", "25", "47", "1047", "1048", "1049", "2004"}

// undo resets every mode that may have been set. It saves the cursor (ESC 7) around the reset of the
// scroll region, which would move it.
const undo = "\x0f\x1b(B\x1b)B\x1b[m\x1b>\x1b[4l\x1b[?1l\x1b[?7h\x1b[?25h\x1b[?2004l\x1b7\x1b[r\x1b8"

// A state is where in a sequence the text is.
type state int

const (
	inText    state = iota
	inEscape        // after ESC
	inCharset       // after ESC ( or )
	inControl       // after ESC [
	inIgnored       // in another one after ESC, which does not pass
	inString        // in a string, until its end
)

// A Filter passes text to a terminal, without what its package says. The zero value is for a terminal
// as it was found.
type Filter struct {
	state   state
	pending []byte // a sequence, or a character, that is not whole; maxSequence at most
	ignored int    // bytes since the sequence began

	touched   bool // a sequence has passed
	alternate bool // the alternate screen is shown
}

// Append appends to out what passes of the next part of the text. Where the parts are cut is all the
// same.
func (f *Filter) Append(out, text []byte) []byte {
	for _, b := range text {
		out = f.next(out, b)
	}
	return out
}

// Reset is what has the terminal as it was found, after all text, and forgets what was not whole. It
// is empty if nothing was changed.
func (f *Filter) Reset() []byte {
	var out []byte
	if f.alternate {
		out = append(out, "\x1b["+alternate+"l"...)
	}
	if f.touched {
		out = append(out, undo...)
	}
	*f = Filter{}
	return out
}

func (f *Filter) next(out []byte, b byte) []byte {
	if f.state == inText {
		return f.text(out, b)
	}
	f.ignored++
	switch {
	case b == escape: // begins anew, and ends a string
		f.begin()
	case b == cancel, b == subst, f.ignored > maxIgnored:
		f.end()
	case f.state == inString:
		if b == bell {
			f.end()
		}
	case b < ' ' || b > '~': // broken
		f.end()
		return f.text(out, b)
	default:
		return f.sequence(out, b)
	}
	return out
}

func (f *Filter) begin() { f.state, f.ignored, f.pending = inEscape, 0, append(f.pending[:0], escape) }
func (f *Filter) end()   { f.state, f.pending = inText, f.pending[:0] }

// text passes characters, when they are whole. What is no UTF-8 would be a control character for some
// terminals (C1), and is replaced.
func (f *Filter) text(out []byte, b byte) []byte {
	f.pending = append(f.pending, b)
	for len(f.pending) > 0 && utf8.FullRune(f.pending) {
		r, size := utf8.DecodeRune(f.pending)
		if r == escape { // the last one
			f.begin()
			return out
		}
		if unicode.IsGraphic(r) || strings.ContainsRune(allowed, r) {
			out = utf8.AppendRune(out, r)
			f.touched = f.touched || r == shiftOut
		}
		f.pending = f.pending[:copy(f.pending, f.pending[size:])]
	}
	return out
}

// sequence takes the next character of a sequence, and passes that if it is whole and is to pass.
func (f *Filter) sequence(out []byte, b byte) []byte {
	if len(f.pending) < maxSequence {
		f.pending = append(f.pending, b)
	}
	passes := ""
	switch f.state {
	case inEscape:
		switch {
		case b == '[':
			f.state = inControl
			return out
		case b == '(' || b == ')':
			f.state = inCharset
			return out
		case strings.IndexByte(openers, b) >= 0:
			f.state = inString
			return out
		case b < '0':
			f.state = inIgnored
			return out
		case strings.IndexByte(simple, b) >= 0:
			passes = string(f.pending)
		}
	case inCharset:
		if strings.IndexByte(charsets, b) >= 0 {
			passes = string(f.pending)
		} else if b < '0' {
			f.state = inIgnored
			return out
		}
	case inControl:
		if b < '@' {
			return out
		}
		if len(f.pending) < maxSequence {
			passes = f.control(string(f.pending[2:len(f.pending)-1]), b)
		}
	case inIgnored:
		if b < '0' {
			return out
		}
	}
	f.end()
	f.touched = f.touched || passes != ""
	return append(out, passes...)
}

// control is what passes of a control sequence.
func (f *Filter) control(parameters string, last byte) string {
	most, known := controls[last]
	private, isPrivate := strings.CutPrefix(parameters, "?")
	setsMode := last == 'h' || last == 'l'
	switch {
	case !known:
		return ""
	case isPrivate && setsMode:
		return f.mode(strings.Split(private, ";"), last)
	case last == 'm':
		parameters = strings.ReplaceAll(parameters, ":", ";") // parts of a colour
	case setsMode && parameters != "4": // to insert characters
		return ""
	case last == 'J' && strings.Trim(parameters, "012") != "", last == 'J' && len(parameters) > 1: // what was scrolled off stays
		return ""
	}
	if !numbers(parameters, most) {
		return ""
	}
	return string(f.pending)
}

// mode is a control sequence with those modes that pass.
func (f *Filter) mode(parameters []string, last byte) string {
	parameters = slices.DeleteFunc(parameters, func(mode string) bool { return !slices.Contains(modes, mode) })
	if len(parameters) == 0 {
		return ""
	}
	for _, mode := range parameters {
		if mode == "47" || mode == "1047" || mode == "1049" {
			f.alternate = last == 'h'
		}
	}
	return "\x1b[?" + strings.Join(parameters, ";") + string(last)
}

// numbers tells whether parameters are so many numbers at most, some of which may not be given.
func numbers(parameters string, most int) bool {
	if parameters == "" {
		return true
	}
	fields := strings.Split(parameters, ";")
	return len(fields) <= most && !slices.ContainsFunc(fields, func(field string) bool {
		return len(field) > maxDigits || strings.Trim(field, "0123456789") != ""
	})
}
