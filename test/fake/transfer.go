package fake

import (
	"io"
	"net"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A Transfer serves one transfer of an archive over a stream of the host. It owns the stream.
type Transfer func(stream net.Conn, header *api.TransferStream)

// transfers are the archives that the host has sent, which it can have back.
type transfers struct {
	mu       sync.Mutex
	serving  Transfer          // nil is the honest one; guarded by mu
	archives map[string][]byte // by path; guarded by mu
}

// OnTransfer has transfers served by a function from now on; nil makes the agent the honest
// one again, which gives back by its path what was sent to a path.
func (a *Agent) OnTransfer(serve Transfer) {
	a.transfers.mu.Lock()
	defer a.transfers.mu.Unlock()
	a.transfers.serving = serve
}

// Archive is what the host has sent to a path; nil if nothing.
func (a *Agent) Archive(path string) []byte {
	a.transfers.mu.Lock()
	defer a.transfers.mu.Unlock()
	return a.transfers.archives[path]
}

func (t *transfers) serve(stream net.Conn, header *api.TransferStream) {
	defer stream.Close()
	t.mu.Lock()
	serve := t.serving
	t.mu.Unlock()
	switch {
	case serve != nil:
		serve(stream, header)
	case header.Direction == api.TransferStream_IMPORT:
		t.take(stream, header.Path)
	default:
		t.give(stream, header.Path)
	}
}

// take keeps an archive, if it is whole.
func (t *transfers) take(stream net.Conn, path string) {
	archive, err := io.ReadAll(stream)
	if err != nil {
		return
	}
	t.mu.Lock()
	if t.archives == nil {
		t.archives = make(map[string][]byte)
	}
	t.archives[path] = archive
	t.mu.Unlock()
	EndTransfer(stream, codes.OK, "")
}

// give sends an archive.
func (t *transfers) give(stream net.Conn, path string) {
	t.mu.Lock()
	archive, found := t.archives[path]
	t.mu.Unlock()
	if !found {
		EndTransfer(stream, codes.NotFound, path+": no such file or directory")
		return
	}
	for len(archive) > 0 {
		n := min(len(archive), api.TransferChunk)
		if api.SendTransfer(stream, &api.TransferFrame{Data: archive[:n]}) != nil {
			return
		}
		archive = archive[n:]
	}
	EndTransfer(stream, codes.OK, "")
}

// EndTransfer sends the result of a transfer.
func EndTransfer(stream io.Writer, code codes.Code, text string) {
	_ = api.SendTransfer(stream, &api.TransferFrame{Result: &api.TransferResult{Code: uint32(code), Error: text}})
}
