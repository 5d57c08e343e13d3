package metrics

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// DefaultAddress is where metrics are served: a unix socket, which is root's.
const DefaultAddress = "unix:" + defaultDir + "/metrics.sock"

// defaultDir is msb's directory for what goes with a reboot.
const defaultDir = "/run/msb"

// What clients can make this process hold.
const (
	maxConnections = 64
	maxScrapes     = 4 // at a time; more are told to come later
	maxHeader      = 16 << 10
	requestTimeout = 5 * time.Second
	answerTimeout  = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	endTimeout     = 2 * time.Second // of the requests that are under way when it ends
)

// An AddressError is about an address that is none to listen on.
type AddressError struct{ error }

// Listen listens on an address: unix:PATH, or a loopback address with a port.
func Listen(address string) (net.Listener, error) {
	if path, found := strings.CutPrefix(address, "unix:"); found {
		return listenUnix(path)
	}
	at, err := loopback(address)
	if err != nil {
		return nil, AddressError{err}
	}
	return net.Listen("tcp", at.String())
}

// loopback is an address of this host alone. A name is none, which may become another's.
func loopback(address string) (at netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return at, fmt.Errorf("%q is no address to listen on: it is unix:PATH, or 127.0.0.1:PORT", address)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return at, fmt.Errorf("%s: metrics are for this host, and %q is not a loopback address such as 127.0.0.1 or [::1]; for others put a proxy with authentication before it", address, host)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return at, fmt.Errorf("%s: %q is not the number of a port", address, port)
	}
	return netip.AddrPortFrom(ip, uint16(number)), nil
}

// listenUnix makes a socket that only root may connect to. One that was left behind is
// replaced; one where somebody listens is not.
func listenUnix(path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, AddressError{fmt.Errorf("unix:%s: the socket's path must be absolute", path)}
	}
	dir := filepath.Dir(path)
	if dir == defaultDir {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	// Of two that replace a socket at once, one would take the other's away.
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s is locked by another program: %w", dir, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	private := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		// The socket's file has the mode that the socket has when it is bound (unix(7)).
		controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	return private.Listen(context.Background(), "unix", path)
}

// removeStale removes the socket of one that was killed: nobody answers there.
func removeStale(path string) error {
	stat, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if stat.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there already, and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("another program listens on %s", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("whether another program listens on %s: %w", path, err)
	}
	return os.Remove(path)
}

// Serve serves metrics at /metrics until ctx ends, and closes the listener: a unix socket's
// file goes with it.
func Serve(ctx context.Context, listener net.Listener, gatherer prometheus.Gatherer) error {
	paths := http.NewServeMux()
	paths.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	server := http.Server{
		Handler: paths, MaxHeaderBytes: maxHeader,
		ReadTimeout: requestTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		_ = server.Shutdown(ending) // what takes longer is cut off
	})
	err := server.Serve(netutil.LimitListener(listener, maxConnections))
	if stop() { // it was not told to end
		return errors.Join(err, server.Close())
	}
	<-ended
	return server.Close()
}
