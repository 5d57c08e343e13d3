package agent

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// maxText is the longest text of an error in bytes. What crun says has no limit of its own,
// and the host takes no message that is larger than it expects (shim/guest).
const maxText = 8 << 10

// wordErrors has the OCI runtime's errors say what runc would, cuts the texts of errors, and leaves
// them their class.
func wordErrors(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	response, err := method(ctx, unmarshal)
	if err == nil {
		return response, nil
	}
	native := errgrpc.ToNative(err)
	text := inRuncsWords(native.Error())
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + " …"
	}
	if text == native.Error() {
		return nil, err
	}
	return nil, errgrpc.ToGRPCf(errdefs.Resolve(native), "%s", text)
}
