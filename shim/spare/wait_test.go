package spare

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// Why there is no spare is told to the shim that has ordered it, and if that one has ended, to the
// host's log.
func TestReport(t *testing.T) {
	hostLog = filepath.Join(t.TempDir(), "log")
	t.Cleanup(func() { hostLog = "/dev/log" })
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: hostLog})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tell := func(failed error, listens bool) (said string) {
		t.Helper()
		heard, saying, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if !listens {
			heard.Close()
		}
		if err := report(int(saying.Fd()), failed); err != nil {
			t.Error(err)
		}
		saying.Close()
		if listens {
			defer heard.Close()
			data := make([]byte, maxReport)
			n, _ := heard.Read(data)
			return string(data[:n])
		}
		return ""
	}
	if said := tell(errors.New("no kernel"), true); said != "no kernel" {
		t.Errorf("the shim heard %q", said)
	}
	tell(errEnough, false)
	tell(nil, false)
	tell(errors.New("no kernel\nnor a disk"), false)
	line := make([]byte, maxReport)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(line[:n]); !strings.HasPrefix(got, "<28>") || !strings.HasSuffix(got, ": no spare VM waits: no kernel; nor a disk") {
		t.Errorf("the host's log has %q first", got)
	}
	// Nobody's log takes it.
	conn.Close()
	tell(errors.New("no kernel"), false)
}

// Options that are not whole are refused, whatever a shim had written of them when it ended: those
// of the default configuration are empty.
func TestReadOptions(t *testing.T) {
	given, err := anypb.New(&runtimeoptions.Options{ConfigPath: "/etc/msb/other.toml"})
	if err != nil {
		t.Fatal(err)
	}
	read := func(data []byte) (typeurl.Any, error) {
		t.Helper()
		reading, writing, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer reading.Close()
		if _, err := writing.Write(data); err != nil {
			t.Fatal(err)
		}
		writing.Close()
		return readOptions(int(reading.Fd()))
	}
	for _, options := range []*anypb.Any{given, new(anypb.Any)} {
		var whole bytes.Buffer
		if err := writeOptions(&whole, options); err != nil {
			t.Fatal(err)
		}
		data := whole.Bytes()
		got, err := read(data)
		if err != nil || got.GetTypeUrl() != options.GetTypeUrl() || !bytes.Equal(got.GetValue(), options.GetValue()) {
			t.Errorf("%v are read as %v, %v", options, got, err)
		}
		for n := range data {
			if got, err := read(data[:n]); !errors.Is(err, errdefs.ErrAborted) {
				t.Errorf("%d of %d bytes are read as %v, %v", n, len(data), got, err)
			}
		}
		if got, err := read(append(data, 0)); !errors.Is(err, errdefs.ErrAborted) {
			t.Errorf("a byte more is read as %v, %v", got, err)
		}
	}
}
