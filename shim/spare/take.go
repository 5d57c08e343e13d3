package spare

import (
	"math/rand/v2"
	"net"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// patience is how long a start looks for a spare before it does without. One that answers
// takes less than a millisecond.
const patience = 2 * time.Second

// Take hands a start over to a spare of a size, and tells whether one has taken it. Without
// an error there may be a spare that takes it later all the same: it ends when Released is
// closed at its other end. The caller needs other files for another daemon then.
func (p Pool) Take(size spec.Size, start Start) bool {
	names, err := p.waiting(size)
	if err != nil {
		return false
	}
	// Those who start at the same time do not all begin with the same one.
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	deadline := time.Now().Add(patience)
	for _, name := range names {
		if handOver(p.socket(name), start, deadline) {
			return true
		}
	}
	return false
}

// handOver hands a start over to the spare that has a socket, and waits for its answer.
func handOver(socket string, start Start, deadline time.Time) bool {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		return false
	}
	defer conn.Close()
	if checkPeer(conn) != nil || conn.SetDeadline(deadline) != nil || start.send(conn) != nil {
		return false
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	return err == nil && string(answer[:n]) == accepted
}
