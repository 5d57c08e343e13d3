// Package mux is what both ends of the machine's byte stream agree on: yamux
// carries all streams over one connection, which is a virtio-serial port or a
// vsock connection. It is the only part of vm that the guest shares.
package mux

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// Port is the name of the virtio-serial port that carries the streams; the
// guest finds it in /sys/class/virtio-ports/*/name.
const Port = "msb.agent"

// VsockPort is the port of the host (CID 2) that the agent connects to where the
// machine has a vsock device (vsock(7)).
const VsockPort = 1024

// Config is the configuration of both sessions. The host is the yamux client.
func Config() *yamux.Config {
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	// Bounds what a hostile guest can make the host keep by opening streams that
	// nobody accepts, to this many windows of 256 KiB.
	config.AcceptBacklog = 32
	// The end of the VMM is seen by its process, not by silence; a paused or
	// busy guest must not lose its streams.
	config.EnableKeepAlive = false
	config.ConnectionWriteTimeout = 10 * time.Minute
	config.StreamOpenTimeout = 0
	// A connection may stay half closed as long as its ends like.
	config.StreamCloseTimeout = 0
	return config
}
