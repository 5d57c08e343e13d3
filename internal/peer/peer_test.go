package peer

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestOf(t *testing.T) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.DialUnix("unix", nil, listener.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []*net.UnixConn{conn, server} {
		who, err := Of(end)
		if err != nil || int(who.Pid) != os.Getpid() || int(who.Uid) != os.Getuid() || int(who.Gid) != os.Getgid() {
			t.Errorf("%+v, %v", who, err)
		}
		end.Close()
		if who, err := Of(end); err == nil {
			t.Errorf("of what is closed: %+v", who)
		}
	}
}
