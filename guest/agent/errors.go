package agent

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// maxText is the longest text of an error in bytes. What runc says has no limit of its own,
// and the host takes no message that is larger than it expects (shim/guest).
const maxText = 8 << 10

// shortenErrors cuts the texts of errors, and leaves them their class.
func shortenErrors(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	response, err := method(ctx, unmarshal)
	if err == nil {
		return response, nil
	}
	native := errgrpc.ToNative(err)
	text := native.Error()
	if len(text) <= maxText {
		return nil, err
	}
	return nil, errgrpc.ToGRPCf(errdefs.Resolve(native), "%s …", strings.ToValidUTF8(text[:maxText], ""))
}
