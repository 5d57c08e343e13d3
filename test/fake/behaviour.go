package fake

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A Behaviour is what an agent makes of a call. The functions below make some; any other
// function will do, and can call Act for the honest part. ctx has the host's deadline.
// A behaviour returns when the machine has ended.
type Behaviour func(ctx context.Context, call *Call) (proto.Message, error)

// Honest is the behaviour of an agent that nobody has changed.
func Honest(ctx context.Context, call *Call) (proto.Message, error) { return call.Act(ctx) }

// Hang does nothing and never answers.
func Hang(_ context.Context, call *Call) (proto.Message, error) {
	<-call.Agent.life().Done()
	return nil, errEnded
}

// Mute does what it should, and never answers.
func Mute(ctx context.Context, call *Call) (proto.Message, error) {
	_, _ = call.Act(ctx)
	return Hang(ctx, call)
}

// Late does what it should after d.
func Late(d time.Duration) Behaviour {
	return func(ctx context.Context, call *Call) (proto.Message, error) {
		pause(call.Agent.life(), d)
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the host's deadline may be over
		defer cancel()
		defer context.AfterFunc(call.Agent.life(), cancel)()
		return call.Act(ctx)
	}
}

// LateAnswer does what it should at once, and answers after d.
func LateAnswer(d time.Duration) Behaviour {
	return func(ctx context.Context, call *Call) (proto.Message, error) {
		answer, err := call.Act(ctx)
		pause(call.Agent.life(), d)
		return answer, err
	}
}

// Fail does nothing and answers with an error, whose class of errdefs it keeps.
func Fail(err error) Behaviour {
	return func(context.Context, *Call) (proto.Message, error) { return nil, err }
}

// Pretend does nothing and answers as if, with an answer in which nothing is set.
func Pretend(context.Context, *Call) (proto.Message, error) { return raw(nil), nil }

// Answer does nothing and gives an answer, of whatever type.
func Answer(message proto.Message) Behaviour {
	return func(context.Context, *Call) (proto.Message, error) { return message, nil }
}

// Die ends the machine in the middle of the call, before anything is done.
func Die(ctx context.Context, call *Call) (proto.Message, error) {
	call.Agent.machine.Die(nil)
	return Hang(ctx, call)
}

// DieDone ends the machine when the call is done and before it is answered.
func DieDone(ctx context.Context, call *Call) (proto.Message, error) {
	_, _ = call.Act(ctx)
	return Die(ctx, call)
}

// WrongType does what it should, and answers with a message of another type. An answer
// with an Any in it has one of another type instead.
func WrongType(ctx context.Context, call *Call) (proto.Message, error) {
	answer, err := call.Act(ctx)
	if err != nil {
		return nil, err
	}
	if field := anyField(answer); field != nil {
		other := &anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Empty"}
		answer.ProtoReflect().Set(field, protoreflect.ValueOfMessage(other.ProtoReflect()))
		return answer, nil
	}
	// A well-formed message whose fields have a type that no answer gives them.
	var bytes []byte
	for number := protowire.Number(1); number <= 16; number++ {
		bytes = protowire.AppendFixed64(protowire.AppendTag(bytes, number, protowire.Fixed64Type), ^uint64(0))
	}
	return raw(bytes), nil
}

// Garbage does what it should, and answers with bytes that are no message.
func Garbage(ctx context.Context, call *Call) (proto.Message, error) {
	if _, err := call.Act(ctx); err != nil {
		return nil, err
	}
	return raw([]byte("\xff\xff\xff\xff garbage")), nil
}

// Huge does what it should, and gives the answer n bytes, in its texts, byte strings and
// type URLs; an answer that has none of these carries them in a field that the host does
// not know. ttrpc carries 4 MiB: with more, the agent's connection ends.
func Huge(n int) Behaviour {
	return func(ctx context.Context, call *Call) (proto.Message, error) {
		answer, err := call.Act(ctx)
		if err != nil {
			return nil, err
		}
		if answer == nil {
			return nil, nil
		}
		fill := texts(answer.ProtoReflect())
		for _, set := range fill {
			set(strings.Repeat("x", n/len(fill)))
		}
		if len(fill) == 0 {
			bytes := protowire.AppendTag(nil, 1000, protowire.BytesType)
			answer.ProtoReflect().SetUnknown(protowire.AppendBytes(bytes, make([]byte, n)))
		}
		return answer, nil
	}
}

// HugeError does nothing and answers with an error whose text has n bytes.
func HugeError(n int) Behaviour {
	return Fail(fmt.Errorf("%s: %w", strings.Repeat("x", n), errdefs.ErrInternal))
}

// Times has the first n calls answered by b and those after it by an honest agent.
func Times(n int, b Behaviour) Behaviour {
	var count atomic.Int64
	return func(ctx context.Context, call *Call) (proto.Message, error) {
		if count.Add(1) > int64(n) {
			return call.Act(ctx)
		}
		return b(ctx, call)
	}
}

// raw is a message that is sent as these bytes.
func raw(bytes []byte) proto.Message {
	message := &emptypb.Empty{}
	message.ProtoReflect().SetUnknown(bytes)
	return message
}

func anyField(message proto.Message) protoreflect.FieldDescriptor {
	if message == nil {
		return nil
	}
	fields := message.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.Message() != nil && !field.IsList() && field.Message().FullName() == "google.protobuf.Any" {
			return field
		}
	}
	return nil
}

// texts are what sets the texts, byte strings and type URLs of a message.
func texts(message protoreflect.Message) (set []func(string)) {
	if any, ok := message.Interface().(*anypb.Any); ok {
		return []func(string){func(text string) { any.TypeUrl = text }}
	}
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case field.IsList() || field.IsMap():
		case field.Kind() == protoreflect.StringKind:
			set = append(set, func(text string) { message.Set(field, protoreflect.ValueOfString(text)) })
		case field.Kind() == protoreflect.BytesKind:
			set = append(set, func(text string) { message.Set(field, protoreflect.ValueOfBytes([]byte(text))) })
		case field.Kind() == protoreflect.MessageKind && message.Has(field):
			set = append(set, texts(message.Mutable(field).Message())...)
		}
	}
	return set
}
