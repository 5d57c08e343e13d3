package smallfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	write := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	link := func(to string) func(string) error {
		return func(path string) error { return os.Symlink(to, path) }
	}
	for name, c := range map[string]struct {
		make func(path string) error
		want string
		err  string // empty: want is what was read
	}{
		"a file":       {write("content"), "content", ""},
		"an empty one": {write(""), "", ""},
		"a masked one": {link("/dev/null"), "", ""},
		"the largest":  {write(strings.Repeat("x", Most)), strings.Repeat("x", Most), ""},
		"one larger":   {write(strings.Repeat("x", Most+1)), "", "it is larger than 1 MiB"},
		"no end":       {link("/dev/zero"), "", "it is no regular file"},
		"a FIFO":       {func(path string) error { return unix.Mkfifo(path, 0o600) }, "", "it is no regular file"},
		"a directory":  {func(path string) error { return os.Mkdir(path, 0o700) }, "", "it is no regular file"},
		"nothing":      {func(string) error { return nil }, "", "no such file or directory"},
		"a lost link":  {link("nowhere"), "", "no such file or directory"},
		"a loop":       {link("file"), "", "too many levels of symbolic links"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			got, err := Read(path)
			if of := new(os.PathError); errors.As(err, &of) {
				err = of.Err
			}
			if c.err == "" && (err != nil || string(got) != c.want) {
				t.Errorf("%d bytes and %v, want %d bytes", len(got), err, len(c.want))
			} else if c.err != "" && (err == nil || err.Error() != c.err) {
				t.Errorf("%v, want %s", err, c.err)
			}
		})
	}
}
