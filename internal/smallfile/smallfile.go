// Package smallfile reads what an administrator names: a configuration, a key, a certificate. Whatever
// is there under that name, reading it has an end, and waits for nobody.
package smallfile

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Most is more than any of these files has, in bytes.
const Most = 1 << 20

// Read is what a regular file has. One that is linked to /dev/null is empty: so files are masked.
func Read(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would be waited for
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() && !isNull(stat) {
		return nil, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(file, Most+1))
	if err == nil && len(data) > Most {
		err = errors.New("it is larger than 1 MiB")
	}
	return data, err
}

func isNull(stat fs.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(stat, null)
}
