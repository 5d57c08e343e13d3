package api

import (
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
)

const (
	// TransferChunk is the most of an archive that a frame of a transfer has, in bytes.
	TransferChunk = 32 << 10
	// maxTransferFrame bounds a frame, in bytes.
	maxTransferFrame = TransferChunk + 16<<10
)

// SendTransfer sends a frame of a transfer.
func SendTransfer(stream io.Writer, frame *TransferFrame) error {
	_, err := protodelim.MarshalTo(stream, frame)
	return err
}

// ReceiveTransfer reads a frame of a transfer. One that is too long is an error.
func ReceiveTransfer(stream io.Reader) (*TransferFrame, error) {
	frame := new(TransferFrame)
	if err := receive(stream, frame, maxTransferFrame); err != nil {
		return nil, err
	}
	return frame, nil
}
