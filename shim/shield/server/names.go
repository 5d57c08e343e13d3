package server

import (
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
)

// names asks the shim which file has a name now. Its methods may be called
// concurrently.
type names struct {
	mu   sync.Mutex // one question at a time
	conn *net.UnixConn
}

// find is the file that an entry is to be, opened with O_PATH, for the caller to
// close; nil if it is the one that the caller has.
func (n *names) find(entry string, have *unix.Stat_t) (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := api.Send(n.conn, api.Find{Entry: entry, Dev: have.Dev, Ino: have.Ino}); err != nil {
		return nil, fmt.Errorf("asking the shim: %w (%w)", err, unix.EIO)
	}
	var found api.Found
	files, err := api.Receive(n.conn, &found)
	switch {
	case err != nil:
		return nil, fmt.Errorf("waiting for the shim: %w (%w)", err, unix.EIO)
	case found.Errno != 0:
		api.CloseAll(files)
		return nil, unix.Errno(found.Errno)
	case !found.Changed:
		api.CloseAll(files)
		return nil, nil
	case len(files) == 0: // this process has no room for another descriptor
		return nil, unix.EMFILE
	}
	return files[0], nil
}
