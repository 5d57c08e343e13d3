package mux

// firstRing is the size in bytes of a ring that holds no more. Through most streams comes only what
// opens them.
const firstRing = 512

// A ring holds the bytes of a stream that have arrived and were not read. The
// credit that was given to the sender bounds what comes in, so it never overflows.
type ring struct {
	data []byte
	head int // of the first byte
	n    int // bytes held
}

// reserve returns where the next n bytes go, in two parts. They stay valid until the
// next reserve, whatever is taken meanwhile. window is the most that the ring can
// come to hold.
func (r *ring) reserve(n, window int) (first, second []byte) {
	if r.n+n > len(r.data) {
		size := max(2*len(r.data), firstRing)
		for size < r.n+n {
			size *= 2
		}
		data := make([]byte, min(size, window))
		a, b := r.parts(r.head, r.n)
		copy(data[copy(data, a):], b)
		r.data, r.head = data, 0
	}
	return r.parts(r.head+r.n, n)
}

// commit adds the n bytes that were reserved.
func (r *ring) commit(n int) { r.n += n }

// peek returns the first bytes, as many as lie together.
func (r *ring) peek() []byte {
	first, _ := r.parts(r.head, r.n)
	return first
}

// discard takes the first n bytes away.
func (r *ring) discard(n int) {
	r.head, r.n = (r.head+n)%len(r.data), r.n-n
}

// read takes bytes into p.
func (r *ring) read(p []byte) int {
	first, second := r.parts(r.head, r.n)
	n := copy(p, first)
	n += copy(p[n:], second)
	r.discard(n)
	return n
}

// parts are the n bytes from a position, which may be beyond the end.
func (r *ring) parts(from, n int) (first, second []byte) {
	if n == 0 {
		return nil, nil
	}
	from %= len(r.data)
	if end := from + n; end > len(r.data) {
		return r.data[from:], r.data[:end-len(r.data)]
	}
	return r.data[from : from+n], nil
}
