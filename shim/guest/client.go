// Package guest is the shim's client of the agent in the guest. The guest is not
// trusted, so every call to it has an end: each has a budget, and a guest that overruns it
// loses its VM; only metrics may be late. A caller may leave before that; the call runs on
// until it is answered or its budget is used up. What comes back is bounded: the size of
// frames, and the texts of errors. A frame that answers no call ends the VM, too.
package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// Budgets say how long the guest may take for a call.
type Budgets struct {
	// Prompt is for calls that change something which is there: signal it, take it away.
	// It also bounds what such a call is to bring about: the end of a container that was
	// killed, all of a deletion, and the end of all containers of a pod.
	Prompt time.Duration
	// Lengthy is for calls that make something: they start programs and mount files.
	Lengthy time.Duration
	// Stats is for metrics. containerd asks for those of all containers one after the
	// other, so one that does not answer must not hold up the others.
	Stats time.Duration
}

// AtLeast gives each call no less than some time.
func (b Budgets) AtLeast(least time.Duration) Budgets {
	return Budgets{Prompt: max(b.Prompt, least), Lengthy: max(b.Lengthy, least), Stats: max(b.Stats, least)}
}

// DefaultBudgets are those that docs/security.md promises.
var DefaultBudgets = Budgets{Prompt: 25 * time.Second, Lengthy: 2 * time.Minute, Stats: time.Second}

// maxStats is how many requests for metrics may be under way. A guest that stops reading
// blocks them for longer than their budget.
const maxStats = 16

// muteFor is how long a guest that has not answered a request for metrics is not asked for
// any: of a pod, containerd asks for those of each container, one after the other.
const muteFor = 5 * time.Second

const (
	// deathNotice is how long a call whose connection broke waits to learn why.
	deathNotice = time.Second
	// endWait is how long a call waits for the end of a VM that it has ended.
	endWait = 10 * time.Second
)

// A Machine is the VM that the agent is in.
type Machine interface {
	// Dial opens a byte stream to the agent. The caller closes it.
	Dial(context.Context) (net.Conn, error)
	// Done is closed when the VM has ended.
	Done() <-chan struct{}
	// End ends the VM, without waiting for it. Only the first reason counts.
	End(reason error)
	// Err tells why the VM ended, or is being ended; nil while it runs, and if it was
	// stopped in order.
	Err() error
}

// A Client calls the agent of one VM. It may be used concurrently.
type Client struct {
	machine Machine
	rpc     *ttrpc.Client
	tasks   taskapi.TTRPCTaskService
	agent   api.GuestClient
	budgets atomic.Pointer[Budgets]
	stats   chan struct{} // a slot for each request for metrics that is under way
	mute    atomic.Int64  // until when the guest is not asked for metrics, in nanoseconds since the epoch
}

// Connect opens the connection on which all calls are made. It may wait for the guest to
// boot, until ctx ends. The caller closes the client.
func Connect(ctx context.Context, machine Machine, budgets Budgets) (*Client, error) {
	c := &Client{machine: machine, stats: make(chan struct{}, maxStats)}
	c.SetBudgets(budgets)
	conns, err := c.open(ctx, []*api.StreamHeader{{Purpose: &api.StreamHeader_Control{Control: &api.ControlStream{}}}})
	if err != nil {
		return nil, err
	}
	c.rpc = ttrpc.NewClient(&frames{Conn: conns[0], machine: machine})
	c.tasks = taskapi.NewTTRPCTaskClient(c.rpc)
	c.agent = api.NewGuestClient(c.rpc)
	return c, nil
}

// SetBudgets says how long the guest may take for calls that begin from now on.
func (c *Client) SetBudgets(budgets Budgets) { c.budgets.Store(&budgets) }

// Close closes the connection. Calls that are under way fail.
func (c *Client) Close() error { return c.rpc.Close() }

// Dial opens a stream to the agent for the purpose that header names. The caller closes
// it.
func (c *Client) Dial(ctx context.Context, header *api.StreamHeader) (net.Conn, error) {
	conns, err := c.DialAll(ctx, header)
	if err != nil {
		return nil, err
	}
	return conns[0], nil
}

// DialAll opens streams as Dial does, in one round trip: the guest is asked for all before it
// has answered for the first. After an error none is open.
func (c *Client) DialAll(ctx context.Context, headers ...*api.StreamHeader) ([]net.Conn, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, c.budgets.Load().Prompt, errOverrun)
	defer cancel()
	conns, err := c.open(bounded, headers)
	if err != nil && errors.Is(context.Cause(bounded), errOverrun) {
		c.overrun("the opening of a stream", c.budgets.Load().Prompt)
	}
	return conns, c.native(err)
}

var errOverrun = errors.New("the guest did not answer in time")

func (c *Client) open(ctx context.Context, headers []*api.StreamHeader) (conns []net.Conn, err error) {
	defer func() {
		if err != nil {
			closeAll(conns)
			conns = nil
		}
	}()
	for range headers {
		conn, err := c.machine.Dial(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.awaitEnd(deathNotice) // then it is known why
			}
			return conns, err
		}
		conns = append(conns, conn)
	}
	stop := endWith(ctx, conns)
	err = openStreams(conns, headers)
	if !stop() {
		return conns, context.Cause(ctx)
	}
	if err != nil {
		return conns, cut(fmt.Errorf("opening a stream to the agent: %w (%w)", err, errdefs.ErrUnavailable))
	}
	return conns, nil
}

// endWith ends what waits for connections when ctx ends, unless it was stopped before. A
// deadline ends a read at once; a close waits for the other side's.
func endWith(ctx context.Context, conns []net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		for _, conn := range conns {
			_ = conn.SetDeadline(time.Unix(1, 0))
		}
	})
}

// openStreams asks for all streams, and then awaits the agent's reply to each.
func openStreams(conns []net.Conn, headers []*api.StreamHeader) error {
	for i, conn := range conns {
		if err := api.SendHeader(conn, headers[i]); err != nil {
			return err
		}
	}
	for _, conn := range conns {
		if err := api.AwaitReply(conn); err != nil {
			return err
		}
	}
	return nil
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// A call is one method of the agent's services.
type call[Request, Response any] func(context.Context, *Request) (*Response, error)

// invoke makes a call that the guest must answer within a budget: an overrun ends the VM.
// Its errors are those of native.
func invoke[Request, Response any](ctx context.Context, c *Client, name string, budget time.Duration,
	make call[Request, Response], request *Request,
) (*Response, error) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget)
	overrun := sync.OnceFunc(func() { c.overrun(name, budget) })
	watch := context.AfterFunc(bounded, overrun)
	return wait(ctx, c, name, func() (*Response, error) {
		defer cancel()
		response, err := make(bounded, request)
		watch()
		if err != nil && bounded.Err() != nil { // the call may learn of its end before watch does
			overrun()
		}
		return response, err
	})
}

// wait makes a call, and waits for its answer until ctx ends. The call itself then runs on.
func wait[Response any](ctx context.Context, c *Client, name string, call func() (*Response, error)) (*Response, error) {
	type answer struct {
		response *Response
		err      error
	}
	answers := make(chan answer, 1)
	end := trace.Guest(ctx, name)
	go func() {
		response, err := call()
		err = c.native(err)
		end(err)
		answers <- answer{response, err} // which may wait, but no longer than the caller does
	}()
	select {
	case a := <-answers:
		return a.response, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the guest's %s: %w", name, context.Cause(ctx))
	}
}

// overrun ends the VM of a guest that has used up a budget.
func (c *Client) overrun(name string, budget time.Duration) {
	count.AddOverrun()
	c.machine.End(fmt.Errorf("the guest did not answer %s within %v: %w", name, budget, errdefs.ErrUnavailable))
}

// Alive returns nil while the VM runs, and otherwise what became of it.
func (c *Client) Alive() error {
	select {
	case <-c.machine.Done():
		return c.gone()
	default:
		return nil
	}
}

// gone says what became of the VM.
func (c *Client) gone() error {
	if cause := c.machine.Err(); cause != nil {
		return goneError{cause}
	}
	return goneError{errdefs.ErrUnavailable}
}

// A goneError says that the VM is gone, and why. Its class is "unavailable", whatever that of
// the reason: with that class containerd goes on cleaning up.
type goneError struct{ cause error }

func (e goneError) Error() string   { return "the VM is gone: " + e.cause.Error() }
func (e goneError) Unwrap() []error { return []error{errdefs.ErrUnavailable, e.cause} }
