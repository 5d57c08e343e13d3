// Package copying copies between streams through a buffer of a chosen size, whatever the streams
// could do by themselves: io.CopyBuffer leaves its buffer unused where one of them has a WriteTo or a
// ReadFrom.
package copying

import (
	"io"
	"sync"
)

// Through copies until one side ends, through a new buffer of a size in bytes, which is the most that
// one read takes.
func Through(size int, to io.Writer, from io.Reader) error {
	return through(make([]byte, size), to, from)
}

// Buffers are for copies that come again and again, as those of an exec's streams do: a buffer is used
// by the next copy, and not collected. They may be used concurrently.
type Buffers struct{ pool sync.Pool }

// NewBuffers returns a source of buffers of a size in bytes.
func NewBuffers(size int) *Buffers {
	return &Buffers{sync.Pool{New: func() any {
		buffer := make([]byte, size)
		return &buffer
	}}}
}

// Copy copies until one side ends.
func (b *Buffers) Copy(to io.Writer, from io.Reader) error {
	buffer := b.pool.Get().(*[]byte)
	defer b.pool.Put(buffer)
	return through(*buffer, to, from)
}

func through(buffer []byte, to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, buffer)
	return err
}

// onlyReader and onlyWriter hide the methods by which io.CopyBuffer would do without its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
