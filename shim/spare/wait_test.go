package spare

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
