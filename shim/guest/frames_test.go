package guest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/containerd/errdefs"
)

// ended is a machine that only notes why it is ended.
type ended struct {
	Machine
	why error
}

func (e *ended) End(why error) { e.why = why }

// frame is one whose header claims a length, with n bytes behind it.
func frame(length uint32, n int) []byte {
	header := binary.BigEndian.AppendUint32(nil, length)
	return append(header, make([]byte, headerSize-len(header)+n)...)
}

func join(parts ...[]byte) (all []byte) {
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// However a stream is cut into reads, a frame that is too large is found at its header.
func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		ok   int // bytes of it that break no rule
	}{
		"nothing":                {nil, 0},
		"half a header":          {frame(1, 0)[:5], 5},
		"no payload":             {join(frame(0, 0), frame(0, 0)), 20},
		"the largest":            {join(frame(maxFrame, maxFrame), frame(3, 3)), 2*headerSize + maxFrame + 3},
		"one byte too large":     {frame(maxFrame+1, 0), headerSize - 1},
		"as large as ttrpc's":    {frame(4<<20, 0), headerSize - 1},
		"as large as can be":     {frame(1<<32-1, 100), headerSize - 1},
		"too large after a good": {join(frame(5, 5), frame(maxFrame+1, 9)), 2*headerSize + 5 - 1},
		"a header in a payload":  {join(frame(headerSize, 0), frame(1<<31, 0), frame(1, 1)), 3*headerSize + 1},
	} {
		for _, size := range []int{1, 2, 3, 9, 10, 11, 4096, 1 << 20} {
			var f frames
			passed := 0
			for passed < len(c.data) {
				n := min(size, len(c.data)-passed)
				if err := f.check(c.data[passed : passed+n]); err != nil {
					if !errdefs.IsUnavailable(err) {
						t.Errorf("%s: %v", name, err)
					}
					break
				}
				passed += n
			}
			if want := min(c.ok/size*size, len(c.data)); passed < want || passed > c.ok {
				t.Errorf("%s: %d bytes in reads of %d passed, and %d may", name, passed, size, c.ok)
			}
		}
	}
}

// Nothing of a read with a violation in it reaches the reader, and the VM is ended.
func TestViolation(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	machine := &ended{}
	f := &frames{Conn: near, machine: machine}
	go func() { _, _ = far.Write(join(frame(2, 2), frame(maxFrame+1, 4))) }()
	n, err := f.Read(make([]byte, 4096))
	if n != 0 || err == nil || !errors.Is(machine.why, err) {
		t.Errorf("Read = %d, %v; the VM was ended for %v", n, err, machine.why)
	}
	far.Close()
	if _, err := (&frames{Conn: near, machine: &ended{}}).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read = %v", err)
	}
}

// model is check at one go.
func model(data []byte) (ok bool) {
	for len(data) >= headerSize {
		length := binary.BigEndian.Uint32(data)
		if length > maxFrame {
			return false
		}
		data = data[min(headerSize+int(length), len(data)):]
	}
	return true
}

func FuzzCheck(f *testing.F) {
	f.Add(frame(5, 5), 3)
	f.Add(join(frame(maxFrame, 7), frame(1, 1)), 11)
	f.Add(join(frame(0, 0), frame(maxFrame+1, 1)), 10)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size <= 0 {
			return
		}
		var frames frames
		var err error
		for rest := data; len(rest) > 0 && err == nil; {
			n := min(size, len(rest))
			err = frames.check(rest[:n])
			rest = rest[n:]
		}
		if (err == nil) != model(data) {
			t.Errorf("in reads of %d: %v", size, err)
		}
	})
}
