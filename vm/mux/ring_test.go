package mux

import (
	"bytes"
	"testing"
)

// A ring is as large as what it has come to hold asks, up to its window, and loses nothing when it
// grows.
func TestRingGrows(t *testing.T) {
	var r ring
	var held []byte
	put := func(n int) {
		t.Helper()
		first, second := r.reserve(n, LargeWindow)
		for i, part := range [][]byte{first, second} {
			for j := range part {
				part[j] = byte(len(held) + i + j)
			}
			held = append(held, part...)
		}
		r.commit(n)
	}
	for _, step := range []struct{ put, take, size int }{
		{100, 60, 512},
		{400, 0, 512}, // around its end
		{100, 0, 1024},
		{20 << 10, 1000, Window},
		{LargeWindow - 20<<10, 500, LargeWindow},
	} {
		put(step.put)
		got := make([]byte, step.take)
		if n := r.read(got); n != step.take || !bytes.Equal(got, held[:n]) {
			t.Errorf("%v: %d bytes, which are others", step, n)
		}
		held = held[step.take:]
		if len(r.data) != step.size {
			t.Errorf("%v: the ring has %d bytes", step, len(r.data))
		}
	}
	rest := make([]byte, LargeWindow)
	if n := r.read(rest); !bytes.Equal(rest[:n], held) {
		t.Errorf("%d bytes, want %d, or others", n, len(held))
	}
}
