package guest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/test/counted"
)

// ended is a machine that only notes why it is ended.
type ended struct {
	Machine
	why error
}

func (e *ended) End(why error) { e.why = why }

// frame is an answer whose header claims a length, with n bytes behind it.
func frame(length uint32, n int) []byte {
	return append(message(frameResponse, 1, 0, length), make([]byte, n)...)
}

func message(kind byte, stream uint32, flags byte, length uint32) []byte {
	header := binary.BigEndian.AppendUint32(nil, length)
	return append(binary.BigEndian.AppendUint32(header, stream), kind, flags)
}

// manyCalls is a connection on which many calls wait for their answers.
func manyCalls() *frames {
	f := &frames{machine: &ended{}}
	f.last.Store(1<<20 + 1)
	return f
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
			f := manyCalls()
			passed := 0
			for passed < len(c.data) {
				n := min(size, len(c.data)-passed)
				if err := f.received.next(c.data[passed:passed+n], f.check); err != nil {
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
	machine, counts := &ended{}, counted.Begin(t)
	f := manyCalls()
	f.Conn, f.machine = near, machine
	go func() { _, _ = far.Write(join(frame(2, 2), frame(maxFrame+1, 4))) }()
	n, err := f.Read(make([]byte, 4096))
	if n != 0 || !errdefs.IsUnavailable(err) || !errors.Is(machine.why, err) {
		t.Errorf("Read = %d, %v; the VM was ended for %v", n, err, machine.why)
	}
	if got := counts(); got != "violations 1" {
		t.Errorf("counted: %s", got)
	}
	far.Close()
	if _, err := (&frames{Conn: near, machine: &ended{}}).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read = %v", err)
	}
}

// What answers no call breaks the rules, whatever it is.
func TestCheckStreams(t *testing.T) {
	request := func(stream uint32) []byte { return message(frameRequest, stream, 0, 0) }
	follow := message(frameRequest, 3, 1, 0)
	answer := func(stream uint32) []byte { return message(frameResponse, stream, 0, 0) }
	data := func(stream uint32) []byte { return message(frameData, stream, 0, 0) }
	for name, c := range map[string]struct {
		sent, received []byte
		ok             bool
	}{
		"an answer":               {request(1), answer(1), true},
		"answers out of order":    {join(request(1), request(3)), join(answer(3), answer(1)), true},
		"data of what is told":    {join(request(1), follow), join(data(3), data(3), answer(1), data(3), answer(3)), true},
		"before any call":         {nil, answer(1), false},
		"of a call to come":       {request(1), answer(3), false},
		"of no call of the host":  {request(3), answer(2), false},
		"no stream":               {request(1), answer(0), false},
		"two answers to one call": {request(1), join(answer(1), answer(1)), false},
		"a stream's end, twice":   {join(request(1), follow), join(answer(1), answer(3), answer(3)), true},
		"a stream's end, thrice":  {join(request(1), follow), join(answer(1), answer(3), answer(3), answer(3)), false},
		"data as an answer":       {request(1), data(1), false},
		"data of another call":    {join(request(1), follow, request(5)), data(5), false},
		"a call":                  {request(1), request(1), false},
		"no type":                 {request(1), message(0, 1, 0, 0), false},
		"another type":            {request(1), message(4, 1, 0, 0), false},
		"data of the host's":      {join(request(1), data(7)), answer(7), false},
	} {
		f := &frames{Conn: nowhere{}, machine: &ended{}}
		if _, err := f.Write(c.sent); err != nil {
			t.Fatal(err)
		}
		if err := f.received.next(c.received, f.check); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// nowhere takes what is written.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// model is check at one go.
func model(data []byte) (ok bool) {
	for len(data) >= headerSize {
		length, stream := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
		if length > maxFrame || data[8] != frameResponse || stream%2 == 0 || stream > 1<<20+1 {
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
		frames := manyCalls()
		var err error
		for rest := data; len(rest) > 0 && err == nil; {
			n := min(size, len(rest))
			err = frames.received.next(rest[:n], frames.check)
			rest = rest[n:]
		}
		if (err == nil) != model(data) {
			t.Errorf("in reads of %d: %v", size, err)
		}
	})
}
