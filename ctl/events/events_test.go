package events

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// envelope is an event as containerd sends it.
func envelope(t *testing.T, namespace, topic string, message any) *types.Envelope {
	t.Helper()
	event, err := typeurl.MarshalAnyToProto(message)
	if err != nil {
		t.Fatal(err)
	}
	return &types.Envelope{Timestamp: timestamppb.New(time.Unix(1_800_000_000, 5e8)), Namespace: namespace, Topic: topic, Event: event}
}

// A containerd has containers and sends events, and then ends or waits.
type containerd struct {
	events.UnimplementedEventsServer
	containers.UnimplementedContainersServer
	runtimes map[string]string // by namespace and id
	sends    []*types.Envelope
	waits    bool
	filters  []string
	asked    []string
}

func (c *containerd) Subscribe(r *events.SubscribeRequest, stream events.Events_SubscribeServer) error {
	c.filters = r.GetFilters()
	for _, e := range c.sends {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	if c.waits {
		<-stream.Context().Done()
	}
	return nil
}

func (c *containerd) Get(ctx context.Context, r *containers.GetContainerRequest) (*containers.GetContainerResponse, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	key := namespace + "/" + r.GetID()
	c.asked = append(c.asked, key)
	runtime, known := c.runtimes[key]
	if !known {
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	return &containers.GetContainerResponse{Container: &containers.Container{ID: r.GetID(), Runtime: &containers.Container_Runtime{Name: runtime}}}, nil
}

func (c *containerd) connect(t *testing.T) *grpc.ClientConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	events.RegisterEventsServer(server, c)
	containers.RegisterContainersServer(server, c)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); os.RemoveAll(dir) })
	return conn
}

func TestFollow(t *testing.T) {
	const ours = "io.containerd.msb.v2"
	c := &containerd{
		runtimes: map[string]string{"a/web": ours, "b/web": "io.containerd.runc.v2", "b/path": "/opt/bin/containerd-shim-msb-v2"},
		sends: []*types.Envelope{
			envelope(t, "a", "/tasks/create", &eventtypes.TaskCreate{ContainerID: "web", Pid: 7}),
			envelope(t, "b", "/tasks/create", &eventtypes.TaskCreate{ContainerID: "web", Pid: 8}),
			envelope(t, "a", "/tasks/start", &eventtypes.TaskStart{ContainerID: "web", Pid: 7}),
			envelope(t, "a", "/tasks/exec-added", &eventtypes.TaskExecAdded{ContainerID: "web", ExecID: "x"}),
			envelope(t, "a", "/tasks/exec-started", &eventtypes.TaskExecStarted{ContainerID: "web", ExecID: "x", Pid: 9}),
			envelope(t, "a", "/tasks/exit", &eventtypes.TaskExit{ContainerID: "web", ID: "x", Pid: 9, ExitStatus: 3}),
			envelope(t, "a", "/tasks/delete", &eventtypes.TaskDelete{ContainerID: "web", ID: "x", Pid: 9, ExitStatus: 3}),
			envelope(t, "b", "/tasks/paused", &eventtypes.TaskPaused{ContainerID: "path"}),
			envelope(t, "b", "/tasks/oom", &eventtypes.TaskOOM{ContainerID: "gone"}),
			envelope(t, "a", "/tasks/exit", &eventtypes.TaskExit{ContainerID: "web", ID: "web", Pid: 7}),
			envelope(t, "a", "/tasks/delete", &eventtypes.TaskDelete{ContainerID: "web", Pid: 7, ExitStatus: 137}),
			{Namespace: "a", Topic: "/tasks/odd"},
			envelope(t, "a", "/tasks/odd", &eventtypes.ImageCreate{Name: "image"}),
		},
	}
	var lines []string
	err := Follow(t.Context(), c.connect(t), "", func(e Event) error {
		when, rest, _ := strings.Cut(e.String(), " ")
		if !strings.HasSuffix(when, ":00.500") {
			t.Errorf("the time of %s", e)
		}
		lines = append(lines, rest)
		return nil
	})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("it has ended with %v", err)
	}
	want := []string{
		"a web create pid=7", "a web start pid=7", "a web exec-added exec=x", "a web exec-started exec=x pid=9",
		"a web exit exec=x pid=9 status=3", "a web delete exec=x pid=9 status=3", "b path paused",
		"a web exit pid=7 status=0", "a web delete pid=7 status=137",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if want := []string{"a/web", "b/web", "b/path", "b/gone"}; !slices.Equal(c.asked, want) {
		t.Errorf("asked for %q, want %q", c.asked, want)
	}
	if !slices.Equal(c.filters, []string{`topic~="^/tasks/"`}) {
		t.Errorf("filters %q", c.filters)
	}
}

// It ends without an error when its context does, and with that of who is told.
func TestFollowEnds(t *testing.T) {
	c := &containerd{
		runtimes: map[string]string{"a/web": "io.containerd.msb.v2"}, waits: true,
		sends: []*types.Envelope{envelope(t, "a", "/tasks/start", &eventtypes.TaskStart{ContainerID: "web"})},
	}
	conn := c.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := Follow(ctx, conn, "a", func(Event) error { cancel(); return nil }); err != nil {
		t.Error(err)
	}
	if !slices.Equal(c.filters, []string{`topic~="^/tasks/",namespace=="a"`}) {
		t.Errorf("filters %q", c.filters)
	}
	failed := errors.New("nobody reads")
	if err := Follow(t.Context(), conn, "", func(Event) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	nobody, err := grpc.NewClient("unix:///no/such/socket", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if err := Follow(t.Context(), nobody, "", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("no containerd: %v", err)
	}
}
