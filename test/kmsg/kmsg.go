// Package kmsg reads the log of the kernel (Documentation/ABI/testing/dev-kmsg).
package kmsg

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Log is what the kernel has logged since it was opened.
type Log struct{ fd int }

// Open opens the log at its end.
func Open() (Log, error) {
	const path = "/dev/kmsg"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Log{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		unix.Close(fd)
		return Log{}, &os.PathError{Op: "seek", Path: path, Err: err}
	}
	return Log{fd}, nil
}

// Close closes it.
func (l Log) Close() error { return unix.Close(l.fd) }

// Read reads the lines that are new. What the kernel has overwritten meanwhile is not among
// them.
func (l Log) Read() (lines []string, err error) {
	record := make([]byte, 8<<10)
	for {
		n, err := unix.Read(l.fd, record)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), n == 0 && err == nil:
			return lines, nil
		case err != nil:
			return lines, os.NewSyscallError("read", err)
		}
		// What precedes the semicolon is about the line, and so is what follows it in further lines.
		_, text, _ := strings.Cut(string(record[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		lines = append(lines, text)
	}
}
