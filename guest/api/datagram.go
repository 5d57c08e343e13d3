package api

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// MaxResolvers is how many addresses a SetNetworkRequest names as resolvers.
const MaxResolvers = 8

// QueryTimeout is how long a resolver may take to answer a query by UDP: longer than its
// client waits (resolv.conf(5): timeout), and than Docker's waits for three others.
const QueryTimeout = 15 * time.Second

// maxDatagram is the longest payload of a datagram, in bytes.
const maxDatagram = 1<<16 - 1

// WriteDatagram sends a datagram over a stream, with its length before it.
func WriteDatagram(stream io.Writer, datagram []byte) error {
	if len(datagram) > maxDatagram {
		return fmt.Errorf("a datagram of %d bytes", len(datagram))
	}
	_, err := stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(datagram))), datagram...))
	return err
}

// ReadDatagram receives what WriteDatagram has sent.
func ReadDatagram(stream io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(stream, length[:]); err != nil {
		return nil, err
	}
	datagram := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(stream, datagram)
	return datagram, err
}
