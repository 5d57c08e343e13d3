package manager

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// containerd from 2.3 on gives "start" a BootstrapParams on stdin and takes a
// BootstrapResult. pkg/shim knows only this form, and readies the process as if it were to serve calls,
// with a collection of garbage. Earlier ones, 1.6 to 2.2, give the same
// arguments and environment, and on stdin nothing or the runtime's options. All of these
// take a bare address for an answer and then speak version 2 of the Task API. Only stdin
// tells the two forms apart.
//
// A sandbox of the Sandbox API needs more since 2.0: a container is sent to its shim only if
// that has told version 3, and gets a shim of its own otherwise. 1.7 takes no such answer.

// maxParams is pkg/shim's limit for what it reads from stdin, in bytes.
const maxParams = 10 << 20

// AnswerStart answers "start" in either form. It returns false if the program was called for anything
// else, which is left to pkg/shim.
func AnswerStart(ctx context.Context) (bool, error) {
	c, ok := parseStart(os.Args[1:])
	if !ok {
		return false, nil
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, maxParams))
	if err != nil {
		return false, fmt.Errorf("reading stdin: %w", err)
	}
	params, isBootstrap := c.bootstrap(input)
	if !isBootstrap {
		if params, err = c.params(input); err != nil {
			return false, err
		}
	}
	if err := keepSocketDir(params.GetSocketDir()); err != nil {
		return false, err
	}
	result, err := Manager{}.Start(namespaces.WithNamespace(ctx, params.GetNamespace()), params)
	if err != nil {
		return false, err
	}
	answer, err := answerTo(result, isBootstrap)
	if err != nil {
		return false, err
	}
	_, err = os.Stdout.Write(answer)
	return true, err
}

// socketDirLink is the link in a bundle by which pkg/shim finds the directory of a daemon's socket, if
// serving fails.
const socketDirLink = "s"

// keepSocketDir makes that link, as pkg/shim does; none is needed for the usual directory.
func keepSocketDir(dir string) error {
	if dir == "" {
		return nil
	}
	err := os.Remove(socketDirLink)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Symlink(dir, socketDirLink)
	}
	if err != nil {
		return fmt.Errorf("noting the shim's address in the bundle: %w", err)
	}
	return nil
}

// sandboxes is the directory of the bundles of sandboxes since containerd 2.0, with one for
// each namespace in it: the id of the plugin that runs them.
const sandboxes = "io.containerd.sandbox.controller.v1.shim"

// answerTo is the answer to the start of a shim for the bundle that this process is in: the result; and
// in the earlier form its address, or, for a sandbox, all of it as JSON (containerd 2.2, pkg/shim,
// BootstrapParams).
func answerTo(result *bootapi.BootstrapResult, isBootstrap bool) ([]byte, error) {
	if isBootstrap {
		return proto.Marshal(result)
	}
	bundle, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if filepath.Base(filepath.Dir(filepath.Dir(bundle))) != sandboxes {
		return []byte(result.GetAddress()), nil
	}
	return json.Marshal(map[string]any{
		"version": result.GetVersion(), "protocol": result.GetProtocol(), "address": result.GetAddress(),
	})
}

// A startCall is what the arguments of "start" say, in both forms.
type startCall struct {
	namespace, id, address, binary string
	debug                          bool
}

// parseStart returns false for any other action, and for arguments that it does not
// understand, about which pkg/shim will say so.
func parseStart(args []string) (c startCall, ok bool) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.namespace, "namespace", "", "")
	flags.StringVar(&c.id, "id", "", "")
	flags.StringVar(&c.address, "address", "", "")
	flags.StringVar(&c.binary, "publish-binary", "", "")
	flags.BoolVar(&c.debug, "debug", false, "")
	err := flags.Parse(args)
	return c, err == nil && flags.Arg(0) == "start" && c.namespace != ""
}

// bootstrap is stdin as a BootstrapParams, if it is one. The runtime's options may decode
// as one, too, but not with this container's id and namespace.
func (c startCall) bootstrap(input []byte) (*bootapi.BootstrapParams, bool) {
	params := new(bootapi.BootstrapParams)
	return params, proto.Unmarshal(input, params) == nil && params.GetInstanceID() == c.id && params.GetNamespace() == c.namespace
}

// params are the BootstrapParams that a later containerd would have given.
func (c startCall) params(options []byte) (*bootapi.BootstrapParams, error) {
	params := &bootapi.BootstrapParams{
		InstanceID:             c.id,
		Namespace:              c.namespace,
		ContainerdGrpcAddress:  c.address,
		ContainerdTtrpcAddress: os.Getenv("TTRPC_ADDRESS"),
		ContainerdBinary:       c.binary,
	}
	if c.debug {
		params.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	if len(options) == 0 {
		return params, nil
	}
	var value anypb.Any
	if err := proto.Unmarshal(options, &value); err != nil {
		return nil, fmt.Errorf("stdin has neither bootstrap parameters nor a runtime's options: %w", err)
	}
	params.Extensions = []*bootapi.Extension{{Value: &value}}
	return params, nil
}
