package fake

import (
	"net"
	"sync"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A Shell is the life of a program of the host's operator, over a stream of the host. It owns
// the stream.
type Shell func(stream net.Conn, header *api.ShellStream)

// shells are how such programs run.
type shells struct {
	mu      sync.Mutex
	serving Shell // nil is the honest one; guarded by mu
}

// OnShell has programs of the host's operator run by a function from now on. The honest one ends
// each at once, with the number of its arguments for a status.
func (a *Agent) OnShell(serve Shell) {
	a.shells.mu.Lock()
	defer a.shells.mu.Unlock()
	a.shells.serving = serve
}

func (s *shells) serve(stream net.Conn, header *api.ShellStream) {
	defer stream.Close()
	s.mu.Lock()
	serve := s.serving
	s.mu.Unlock()
	if serve == nil {
		_ = api.SendExit(stream, uint32(len(header.Args)))
		return
	}
	serve(stream, header)
}

// CloseStreams ends standard streams, as the end of the process that has them does.
func (a *Agent) CloseStreams(ids ...string) {
	for _, id := range ids {
		a.stdio.close(id)
	}
}

// Print has a standard stream carry what a process prints; an error is that nobody takes it.
func (a *Agent) Print(id string, data []byte) error {
	out, err := a.stdio.output(api.StdioPath(id))
	if err != nil {
		return err
	}
	_, err = out.conn.Write(data)
	return err
}
