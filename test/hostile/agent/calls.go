package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

const (
	// late is how late an answer comes: a host with any sense waits for that long.
	late = 3 * time.Second
	mib  = 1 << 20
)

// answers are the words about calls. The argument is the end of a method's name, such as
// Delete, Guest/Start, or exec.Start for processes besides the container's first; * is
// every method. do makes the call as the product's agent would.
var answers = map[string]func(do func() (any, error)) (any, error){
	// Never answers.
	"hang": func(func() (any, error)) (any, error) { select {} },
	// Does what is asked, and never says so.
	"silent": func(do func() (any, error)) (any, error) {
		_, _ = do()
		select {}
	},
	"late": func(do func() (any, error)) (any, error) {
		time.Sleep(late)
		return do()
	},
	"refuse": func(func() (any, error)) (any, error) { return nil, errors.New("no, it will not be done") },
	// Refuses with much text.
	"shout": func(func() (any, error)) (any, error) { return nil, errors.New(strings.Repeat("no\n", mib/3)) },
	// Says that it was done.
	"lie": func(func() (any, error)) (any, error) { return new(emptypb.Empty), nil },
	// Answers with something that is no message of any kind of answer.
	"swap": func(do func() (any, error)) (any, error) {
		_, _ = do()
		return wrapperspb.Bytes([]byte("\xff\xfe not an answer \xff")), nil
	},
	// Answers with a value that is as large as a message may be. Statistics are of this form.
	"huge": func(do func() (any, error)) (any, error) {
		_, _ = do()
		return &taskapi.StatsResponse{Stats: &anypb.Any{
			TypeUrl: "io.containerd.cgroups.v2.Metrics", Value: []byte(strings.Repeat("x", 3*mib)),
		}}, nil
	},
}

// call stands before each call of the host.
func (g *guest) call(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	if strings.HasSuffix(info.FullMethod, "/CreateBundle") {
		var request api.CreateBundleRequest
		if err := unmarshal(&request); err != nil {
			return nil, err
		}
		if err := g.meet(&request); err != nil {
			return nil, err
		}
	}
	exec := isExec(info, unmarshal)
	do := func() (any, error) { return method(ctx, unmarshal) }
	for _, w := range g.obeyed() {
		if answer := answers[w.verb]; answer != nil && isAbout(w.argument, info.FullMethod, exec) {
			g.say("does %s:%s to %s", w.verb, w.argument, info.FullMethod)
			return answer(do)
		}
	}
	response, err := do()
	if err == nil && !exec && strings.HasSuffix(info.FullMethod, "Task/Start") {
		g.attack()
	}
	return response, err
}

func isAbout(argument, method string, exec bool) bool {
	name, onlyExec := strings.CutPrefix(argument, "exec.")
	return (exec || !onlyExec) && (name == "*" || strings.HasSuffix(method, "/"+name) || strings.HasSuffix(method, "."+name))
}

// isExec tells a call of the task service about a process besides the container's first.
// Requests about a process have its id in one place, and others something else there.
func isExec(info *ttrpc.UnaryServerInfo, unmarshal ttrpc.Unmarshaler) bool {
	service, name, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), "/")
	var request taskapi.StartRequest
	return strings.HasSuffix(service, ".Task") && !slices.Contains([]string{"Create", "Update", "Checkpoint", "Stats"}, name) &&
		unmarshal(&request) == nil && request.ExecID != ""
}
