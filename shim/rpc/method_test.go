package rpc

import (
	"context"
	"reflect"
	"strings"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// answers are the calls that are answered although there is neither container nor sandbox,
// and refusals those that are refused for another reason.
var (
	answers = map[string]bool{
		"Connect": true, "Shutdown": true, "Platform": true, "ShutdownSandbox": true,
	}
	refusals = map[string]func(error) bool{
		"Create": errdefs.IsInvalidArgument, "CreateSandbox": errdefs.IsInvalidArgument, "UpdateSandbox": errdefs.IsNotImplemented, "StartSandbox": errdefs.IsFailedPrecondition,
	}
)

// Every method of the three services is there for the client that containerd has, takes its
// request and reaches its service. Here there is nothing yet that it could be about.
func TestEveryMethod(t *testing.T) {
	for name, c := range map[string]struct {
		methods protoreflect.MethodDescriptors
		client  func(*ttrpc.Client) any
	}{
		"task v2": {
			taskv2.File_runtime_task_v2_shim_proto.Services().Get(0).Methods(),
			func(c *ttrpc.Client) any { return taskv2.NewTTRPCTaskClient(c) },
		},
		"task v3": {
			taskv3.File_runtime_task_v3_shim_proto.Services().Get(0).Methods(),
			func(c *ttrpc.Client) any { return taskv3.NewTTRPCTaskClient(c) },
		},
		"sandbox": {
			sandboxapi.File_runtime_sandbox_v1_sandbox_proto.Services().Get(0).Methods(),
			func(c *ttrpc.Client) any { return sandboxapi.NewTTRPCSandboxClient(c) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range c.methods.Len() {
				method := string(c.methods.Get(i).Name())
				s := open(t)
				client := c.client(s.serve().Client)
				err := callByName(client, method)
				is := errdefs.IsNotFound
				if refused := refusals[method]; refused != nil {
					is = refused
				}
				if answers[method] && err != nil || !answers[method] && !is(err) {
					t.Errorf("%s: %v", method, err)
				}
			}
		})
	}
}

func (s *world) serve() client {
	t := s.T.(*testing.T)
	t.Helper()
	return serve(t, func(server *ttrpc.Server) {
		if err := s.services.RegisterTTRPC(server); err != nil {
			t.Fatal(err)
		}
	})
}

// callByName calls a client's method about something with an id that nothing has; that to
// create something is left without one.
func callByName(client any, name string) error {
	method := reflect.ValueOf(client).MethodByName(name)
	request := reflect.New(method.Type().In(1).Elem())
	for _, field := range []string{"ID", "SandboxID"} {
		if id := request.Elem().FieldByName(field); id.IsValid() && refusals[name] == nil {
			id.SetString("nothing")
		}
	}
	results := method.Call([]reflect.Value{reflect.ValueOf(context.Background()), request})
	err, _ := results[1].Interface().(error)
	return errgrpc.ToNative(err)
}

// A step is one call of a life, and what the guest is asked then ("" for nothing).
type step struct {
	method  string
	request proto.Message
	guest   string
	check   func(response any) bool
}

// A container's life by either version: each method does its own work.
func TestLifeOfAContainer(t *testing.T) {
	for _, service := range taskServices {
		t.Run(service, func(t *testing.T) {
			s := open(t)
			process, err := typeurl.MarshalAnyToProto(&specs.Process{Args: []string{"sleep"}, Cwd: "/"})
			if err != nil {
				t.Fatal(err)
			}
			resources, err := typeurl.MarshalAnyToProto(&specs.LinuxResources{})
			if err != nil {
				t.Fatal(err)
			}
			s.take(s.serve(), service, containerSteps(s.Request("c", rig.Spec("sleep")), process, resources))
			<-s.life.Done() // Shutdown after the last container
		})
	}
}

func containerSteps(create *taskv3.CreateTaskRequest, process, resources *anypb.Any) []step {
	const id = "c"
	status := func(want string) func(any) bool {
		return func(r any) bool { return r.(*taskv3.StateResponse).Status.String() == want }
	}
	return []step{
		{"Create", create, "Task.Create", func(r any) bool { return r.(*taskv3.CreateTaskResponse).Pid != 0 }},
		{"State", &taskv3.StateRequest{ID: id}, "", status("CREATED")},
		{"Start", &taskv3.StartRequest{ID: id}, "Task.Start", func(r any) bool { return r.(*taskv3.StartResponse).Pid != 0 }},
		{"State", &taskv3.StateRequest{ID: id}, "", status("RUNNING")},
		{"Pids", &taskv3.PidsRequest{ID: id}, "", func(r any) bool { return len(r.(*taskv3.PidsResponse).Processes) == 1 }},
		{"Connect", &taskv3.ConnectRequest{ID: id}, "", func(r any) bool { return r.(*taskv3.ConnectResponse).TaskPid != 0 }},
		{"Pause", &taskv3.PauseRequest{ID: id}, "Task.Pause", nil},
		{"State", &taskv3.StateRequest{ID: id}, "", status("PAUSED")},
		{"Resume", &taskv3.ResumeRequest{ID: id}, "Task.Resume", nil},
		{"Exec", &taskv3.ExecProcessRequest{ID: id, ExecID: "e", Spec: process}, "Task.Exec", nil},
		{"ResizePty", &taskv3.ResizePtyRequest{ID: id, ExecID: "e"}, "Task.ResizePty", nil},
		{"CloseIO", &taskv3.CloseIORequest{ID: id, ExecID: "e", Stdin: true}, "Task.CloseIO", nil},
		{"Update", &taskv3.UpdateTaskRequest{ID: id, Resources: resources}, "Task.Update", nil},
		{"Stats", &taskv3.StatsRequest{ID: id}, "Task.Stats", func(r any) bool { return r.(*taskv3.StatsResponse).Stats != nil }},
		{"Delete", &taskv3.DeleteRequest{ID: id, ExecID: "e"}, "Task.Delete", nil},
		{"Kill", &taskv3.KillRequest{ID: id, Signal: uint32(unix.SIGKILL)}, "Task.Kill", nil},
		{"Wait", &taskv3.WaitRequest{ID: id}, "", func(r any) bool { return r.(*taskv3.WaitResponse).ExitStatus == 137 }},
		{"Delete", &taskv3.DeleteRequest{ID: id}, "Task.Delete", func(r any) bool { return r.(*taskv3.DeleteResponse).ExitStatus == 137 }},
		{"Shutdown", &taskv3.ShutdownRequest{ID: id}, "", nil},
	}
}

// A sandbox's life: each method does its own work.
func TestLifeOfASandbox(t *testing.T) {
	s := open(t)
	const id = "p"
	state := func(want string) func(any) bool {
		return func(r any) bool { return r.(*sandboxapi.SandboxStatusResponse).State == want }
	}
	s.take(s.serve(), sandboxService, []step{
		{"CreateSandbox", &sandboxapi.CreateSandboxRequest{SandboxID: id, BundlePath: s.bundle}, "", nil},
		{"SandboxStatus", &sandboxapi.SandboxStatusRequest{SandboxID: id}, "", state("SANDBOX_NOTREADY")},
		{"StartSandbox", &sandboxapi.StartSandboxRequest{SandboxID: id}, "Guest.CreatePod", func(r any) bool { return r.(*sandboxapi.StartSandboxResponse).Pid != 0 }},
		{"SandboxStatus", &sandboxapi.SandboxStatusRequest{SandboxID: id}, "", state("SANDBOX_READY")},
		{"PingSandbox", &sandboxapi.PingRequest{SandboxID: id}, "", nil},
		{"Platform", &sandboxapi.PlatformRequest{SandboxID: id}, "", func(r any) bool { return r.(*sandboxapi.PlatformResponse).Platform.GetOS() == "linux" }},
		{"StopSandbox", &sandboxapi.StopSandboxRequest{SandboxID: id}, "", nil},
		{"WaitSandbox", &sandboxapi.WaitSandboxRequest{SandboxID: id}, "", func(r any) bool { return r.(*sandboxapi.WaitSandboxResponse).ExitedAt != nil }},
		{"ShutdownSandbox", &sandboxapi.ShutdownSandboxRequest{SandboxID: id}, "", nil},
	})
	<-s.life.Done()
}

// take takes steps, and fails for those that do not do what they should.
func (s *world) take(c client, service string, steps []step) {
	s.T.Helper()
	for _, step := range steps {
		before := s.asked(step.guest)
		response := s.responseOf(service, step.method)
		if err := c.call(service, step.method, step.request, response); err != nil {
			s.T.Fatalf("%s: %v", step.method, err)
		}
		if step.check != nil && !step.check(response) {
			s.T.Errorf("%s = %v", step.method, response)
		}
		if step.guest != "" && s.asked(step.guest) != before+1 {
			s.T.Errorf("%s: the guest was not asked for %s", step.method, step.guest)
		}
	}
}

// asked counts what the guest was asked for.
func (s *world) asked(call string) int {
	if call == "" || len(s.Driver.Machines()) == 0 {
		return 0
	}
	return len(s.Agent().Calls(call))
}

// responseOf makes a response of a method, of the type that Go has for it.
func (s *world) responseOf(service, method string) any {
	s.T.Helper()
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		s.T.Fatal(err)
	}
	output := found.(protoreflect.MethodDescriptor).Output().FullName()
	made, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(strings.Replace(string(output), "task.v2", "task.v3", 1)))
	if err != nil {
		s.T.Fatal(err)
	}
	return made.New().Interface()
}
