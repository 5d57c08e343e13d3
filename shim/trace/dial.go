package trace

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// dial connects to where a request is to be written: the host of its address, or a proxy. relayed
// is whether that is a proxy which is told the whole address (Request.WriteProxy).
func (t Target) dial(ctx context.Context, to *url.URL) (_ net.Conn, relayed *url.URL, err error) {
	proxy, err := t.proxyFor(to)
	if err != nil {
		return nil, nil, err
	}
	var security *tls.Config
	if to.Scheme == "https" {
		if security, err = t.security(); err != nil {
			return nil, nil, err
		}
		security.ServerName = to.Hostname()
	}
	if proxy == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", hostOf(to))
		if err != nil || security == nil {
			return conn, nil, err
		}
		conn, err = secure(ctx, conn, security)
		return conn, nil, err
	}
	conn, err := dialProxy(ctx, proxy)
	if err != nil {
		return nil, nil, fmt.Errorf("the proxy %s: %w", proxy.Host, err)
	}
	if security == nil {
		return conn, proxy, nil
	}
	if err := tunnel(ctx, conn, proxy, hostOf(to)); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("the proxy %s: %w", proxy.Host, err), conn.Close())
	}
	conn, err = secure(ctx, conn, security)
	return conn, nil, err
}

// proxyFor is nil where there is none.
func (t Target) proxyFor(to *url.URL) (*url.URL, error) {
	if t.proxy == nil {
		return nil, nil
	}
	proxy, err := t.proxy(&http.Request{URL: to})
	if err == nil && proxy != nil && proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, fmt.Errorf("the proxy %s is one of %s, and msb's traces go through http and https alone: add the collector to NO_PROXY in containerd's environment", proxy.Host, proxy.Scheme)
	}
	return proxy, err
}

func dialProxy(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", hostOf(proxy))
	if err != nil || proxy.Scheme != "https" {
		return conn, err
	}
	// Whom the collector's authority vouches for is another matter.
	return secure(ctx, conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: proxy.Hostname()})
}

// hostOf is the host of an address with its port.
func hostOf(to *url.URL) string {
	port := "80"
	if to.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(to.Hostname(), cmp.Or(to.Port(), port))
}

// secure begins TLS on a connection, or closes it.
func secure(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secured, nil
}

// tunnel asks a proxy for a connection to a host.
func tunnel(ctx context.Context, conn net.Conn, proxy *url.URL, host string) error {
	stop := cutOff(ctx, conn)
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: host}, Host: host, Header: http.Header{}}
	authorize(request, proxy)
	if err := request.Write(conn); err != nil {
		return err
	}
	// Nobody speaks behind the answer but when spoken to, so nothing of what follows is read.
	answer := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	response, err := http.ReadResponse(answer, request)
	if err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	switch {
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("its answer is %d", response.StatusCode)
	case answer.Buffered() > 0:
		return errors.New("it says more than that there is a connection")
	case !stop():
		return ctx.Err()
	}
	return nil
}

// authorize adds the password that a proxy's address has.
func authorize(request *http.Request, proxy *url.URL) {
	if proxy.User == nil {
		return
	}
	password, _ := proxy.User.Password()
	request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)))
}

// cutOff has a connection end when ctx does, until stop is called.
func cutOff(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}
