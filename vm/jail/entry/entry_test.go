package entry

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What the keeper answers is what the process reads, and an answer that breaks off is none.
func TestAnswer(t *testing.T) {
	for name, filter := range map[string][]unix.SockFilter{
		"no filter":  nil,
		"a short":    {{Code: 6, Jt: 1, Jf: 2, K: 0x7fff0000}},
		"as long as": slices.Repeat([]unix.SockFilter{{Code: 6}}, unix.BPF_MAXINSNS),
	} {
		answer, err := Answer(filter)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := readAnswer(bytes.NewReader(answer))
		if !slices.Equal(got, filter) || err != nil {
			t.Errorf("%s: %d instructions, %v; want %d", name, len(got), err, len(filter))
		}
		for _, broken := range []int{0, 1, len(answer) - 1} {
			if broken >= len(answer) {
				continue
			}
			if got, err := readAnswer(bytes.NewReader(answer[:broken])); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, broken off after %d bytes: %d instructions, %v", name, broken, len(got), err)
			}
		}
	}
	if _, err := Answer(make([]unix.SockFilter, unix.BPF_MAXINSNS+1)); err == nil {
		t.Error("a filter that the kernel does not take is answered")
	}
}
