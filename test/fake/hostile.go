package fake

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// SendEvent sends an event behind those that wait already: an *api.Event as it is, and
// any other event of containerd's with its topic, of now. It waits while the queue is
// full, and does not end up anywhere if the machine has ended.
func (a *Agent) SendEvent(event any) error {
	if ready, ok := event.(*api.Event); ok {
		a.queue(ready)
		return nil
	}
	value, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return err
	}
	a.queue(&api.Event{Topic: runtime.GetTopic(event), At: timestamppb.Now(), Event: value})
	return nil
}

// EndEvents ends the stream of events under the host, with an error or, nil, without.
// The agent lives on.
func (a *Agent) EndEvents(err error) {
	select {
	case a.cut <- err:
	case <-a.life().Done():
	}
}

// Console prints on the guest's console.
func (a *Agent) Console(text string) {
	if console := a.machine.config.Console; console != nil {
		_, _ = console.Write([]byte(text))
	}
}

// StopReading reads nothing more from the connection to the host. The agent still writes.
// The connection itself has no buffer: what waits, waits in the host's mux.Session.
func (a *Agent) StopReading() error {
	link, err := a.link()
	if err != nil {
		return err
	}
	link.wire.stopReading()
	return nil
}

// Disconnect closes the connection to the host from the guest's side, which ends the
// machine as it does with a real one.
func (a *Agent) Disconnect() error {
	link, err := a.link()
	if err != nil {
		return err
	}
	return link.wire.Close()
}

// Inject writes bytes of any kind to the connection, between two frames of vm/mux: frames
// made with mux.Frame that the host does not expect, or garbage.
func (a *Agent) Inject(bytes []byte) error {
	link, err := a.link()
	if err != nil {
		return err
	}
	return link.wire.inject(bytes)
}

// noiseBatch is how many frames go out in one write.
const noiseBatch = 64

// Noise sends frames of a kind that there is not as fast as the host takes them, until the
// machine ends, and reads nothing.
func (a *Agent) Noise() error {
	link, err := a.link()
	if err != nil {
		return err
	}
	link.wire.stopReading()
	var batch []byte
	for range noiseBatch {
		batch = mux.Frame{Kind: mux.FrameCredit + 1}.Append(batch)
	}
	go func() {
		for link.wire.inject(batch) == nil {
		}
	}()
	return nil
}

// OpenStreams opens n streams to the host and sends no header on them. The caller closes
// them, or the machine's end does. After an error it returns those that it opened. More
// than mux.Backlog that the host does not accept end the machine.
func (a *Agent) OpenStreams(n int) ([]net.Conn, error) {
	link, err := a.link()
	if err != nil {
		return nil, err
	}
	var streams []net.Conn
	for range n {
		stream, err := link.guestOpen()
		if err != nil {
			return streams, fmt.Errorf("opening stream %d of %d: %w", len(streams)+1, n, err)
		}
		streams = append(streams, stream)
	}
	return streams, nil
}

// A Frame is one of ttrpc's (PROTOCOL.md): Type 1 is a request, 2 a response, 3 data;
// Flags 1 is remote closed, 2 remote open, 4 no data.
type Frame struct {
	Stream      uint32
	Type, Flags byte
	Payload     []byte
}

// RawFrames sends frames of ttrpc's on the control stream that the host opened last.
func (a *Agent) RawFrames(frames ...Frame) error {
	a.mu.Lock()
	var control *wire
	if n := len(a.control); n > 0 {
		control = a.control[n-1]
	}
	a.mu.Unlock()
	if control == nil {
		return fmt.Errorf("the host has not opened a control stream: %w", errdefs.ErrFailedPrecondition)
	}
	for _, frame := range frames {
		bytes := binary.BigEndian.AppendUint32(nil, uint32(len(frame.Payload)))
		bytes = binary.BigEndian.AppendUint32(bytes, frame.Stream)
		bytes = append(bytes, frame.Type, frame.Flags)
		if err := control.inject(append(bytes, frame.Payload...)); err != nil {
			return err
		}
	}
	return nil
}
