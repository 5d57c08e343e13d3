package collect

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// directory is the one that all files of an archive are in.
const directory = "msb-collect"

// Write writes an archive that only its owner may read. It has its name when it is whole: after
// an error, or when the context has ended, there is nothing new.
func Write(ctx context.Context, path string, parts []Part, now time.Time) (err error) {
	// The archive takes the place of what has the name: a device, or a link, would be lost.
	if stat, err := os.Lstat(path); err == nil && !stat.Mode().IsRegular() {
		return fmt.Errorf("%s is not written: it is there, and no regular file: name another with --output", path)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".msb-collect-*") // with mode 0600
	if err != nil {
		return explain(path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(explain(path, err), os.Remove(file.Name()))
		}
	}()
	err = pack(file, parts, now)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close(), ctx.Err()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func explain(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%s is not written, its file system is full: free some of it, or name a file elsewhere with --output: %w", path, err)
	}
	return fmt.Errorf("%s is not written: %w", path, err)
}

func pack(to io.Writer, parts []Part, now time.Time) error {
	zipped := gzip.NewWriter(to)
	archive := tar.NewWriter(zipped)
	for _, part := range parts {
		data, err := encode(part.Value)
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: directory + "/" + part.Name, Mode: 0o600, Size: int64(len(data)), ModTime: now}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(data); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zipped.Close())
}

func encode(value any) ([]byte, error) {
	if text, ok := value.(string); ok {
		return []byte(text), nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return out.Bytes(), err
}
