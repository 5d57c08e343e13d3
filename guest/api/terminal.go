package api

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protodelim"
)

const (
	// MaxWindow is the most rows and columns of a terminal: the kernel has 16 bits for each
	// (ioctl_tty(2), struct winsize).
	MaxWindow = math.MaxUint16
	// maxTerm is how long the type of a terminal may be, in bytes.
	maxTerm = 64
	// maxWindowSize bounds a WindowSize, in bytes.
	maxWindowSize = 32
)

// CheckTerminal checks what either side says of a terminal: its type is a name as terminfo has them
// (term(7)).
func CheckTerminal(t *Terminal) error {
	if strings.Trim(t.GetTerm(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+_.") != "" || t.GetTerm() == "" || len(t.GetTerm()) > maxTerm {
		return fmt.Errorf("$TERM is %.100q, which is no type of a terminal: %w", t.GetTerm(), errdefs.ErrInvalidArgument)
	}
	return CheckWindow(t.GetSize())
}

// CheckWindow checks the size of a terminal.
func CheckWindow(size *WindowSize) error {
	if size.GetRows() > MaxWindow || size.GetColumns() > MaxWindow {
		return fmt.Errorf("a terminal of %d rows and %d columns: it has %d at most: %w", size.GetRows(), size.GetColumns(), MaxWindow, errdefs.ErrInvalidArgument)
	}
	return nil
}

// SendWindow tells the agent how large a terminal is from now on.
func SendWindow(stream io.Writer, size *WindowSize) error {
	_, err := protodelim.MarshalTo(stream, size)
	return err
}

// ReceiveWindow reads the size of a terminal. A message that is too long is an error, and so is a
// size that CheckWindow refuses.
func ReceiveWindow(stream io.Reader) (*WindowSize, error) {
	var size WindowSize
	if err := receive(stream, &size, maxWindowSize); err != nil {
		return nil, err
	}
	return &size, CheckWindow(&size)
}
