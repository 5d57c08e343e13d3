package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// maxText is how much of an error's text the guest may choose, and a class's name.
const maxText = 4<<10 + 64

// The class of an error, and a short text, come through as they are.
func TestClasses(t *testing.T) {
	h := boot(t)
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrNotModified,
		errdefs.ErrAborted, errdefs.ErrOutOfRange, errdefs.ErrNotImplemented, errdefs.ErrInternal, errdefs.ErrUnavailable,
		errdefs.ErrDataLoss, errdefs.ErrUnauthenticated, errdefs.ErrUnknown, context.DeadlineExceeded, context.Canceled,
	} {
		h.agent.On("Kill", fake.Fail(fmt.Errorf("no such luck: %w", class)))
		if err := kill(t, h); !errors.Is(err, class) || err.Error() != "no such luck: "+class.Error() {
			t.Errorf("%v: %v", class, err)
		}
		h.agent.On("Kill", fake.Fail(fmt.Errorf("%s: %w", strings.Repeat("long ", 10<<10), class)))
		if err := kill(t, h); !errors.Is(err, class) || len(err.Error()) > maxText {
			t.Errorf("%v, with %d bytes of text: %.100v", class, len(err.Error()), err)
		}
	}
	h.wantAlive()
}

func kill(t *testing.T, h *host) error {
	return call(t.Context(), h, "Task.Kill")
}

// call makes one of the calls.
func call(ctx context.Context, h *host, name string) error {
	for _, call := range calls {
		if call.name == name {
			return call.make(ctx, h.client)
		}
	}
	panic(name)
}

// A code that there is not is no success, and has a class all the same.
func TestUnknownCodes(t *testing.T) {
	h := boot(t)
	for _, code := range []codes.Code{17, 99, 1 << 31} {
		h.agent.On("Kill", fake.Fail(status.Error(code, "odd")))
		if err := kill(t, h); !errdefs.IsUnknown(err) || !strings.Contains(err.Error(), "odd") {
			t.Errorf("code %d: %v", code, err)
		}
	}
	h.agent.On("Kill", fake.Fail(status.Error(codes.Unknown, "x: unexpected status 404")))
	if err := kill(t, h); err == nil {
		t.Error("an error was taken for none")
	}
}

// hostile is what a terminal would act upon, or a log would take for lines of its own.
const hostile = "\x1b]0;mine\a\r\n\u202e\u2028level=error\x00\u009b31m"

// A text is printable and short, whatever the guest makes of it.
func TestTexts(t *testing.T) {
	h := boot(t)
	for name, text := range map[string]string{
		"short": hostile,
		"long":  strings.Repeat(hostile, 1<<10),
		"empty": "",
		"marks": strings.Repeat("\U000e0001", 1<<10),
	} {
		h.agent.On("Kill", fake.Fail(status.Error(codes.Internal, text)))
		err := kill(t, h)
		if !errdefs.IsInternal(err) {
			t.Errorf("%s: %v", name, err)
		}
		wantHarmless(t, name, err)
	}
	h.agent.On("Kill", fake.HugeError(60<<10))
	wantHarmless(t, "huge", kill(t, h))
	h.wantAlive()
}

func wantHarmless(t *testing.T, name string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	text := err.Error()
	odd := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
	if len(text) > maxText || odd >= 0 || !utf8.ValidString(text) {
		t.Errorf("%s: %d bytes, %.100q", name, len(text), text[max(odd, 0):])
	}
}

// The details of an error are errors themselves, and may have details. A guest that nests
// them as deep as they go makes the host keep none.
func TestNestedDetails(t *testing.T) {
	h := boot(t)
	bomb := nested(60 << 10)
	h.agent.On("Kill", fake.Fail(bomb))
	var err error
	grown := peak(func() { err = kill(t, h) })
	t.Logf("the host grew by %d KiB", grown>>10)
	if grown > slack {
		t.Errorf("the host grew by %d bytes", grown)
	}
	if !errdefs.IsNotFound(err) || err.Error() != "outermost" {
		t.Errorf("Kill = %.100v", err)
	}
}

// nested is an error of about size bytes.
func nested(size int) error {
	var heads [][]byte // each level's bytes before the next deeper one
	length := 0
	for length < size {
		detail := protowire.AppendTag(nil, 1, protowire.BytesType)
		detail = protowire.AppendString(detail, "google.rpc.Status")
		detail = protowire.AppendTag(detail, 2, protowire.BytesType)
		detail = protowire.AppendVarint(detail, uint64(length))
		head := protowire.AppendTag(nil, 1, protowire.VarintType)
		head = protowire.AppendVarint(head, uint64(codes.Unknown))
		head = protowire.AppendTag(head, 3, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(len(detail)+length))
		heads = append(heads, append(head, detail...))
		length += len(heads[len(heads)-1])
	}
	slices.Reverse(heads)
	message := status.New(codes.NotFound, "").Proto()
	if err := proto.Unmarshal(bytes.Join(heads, nil), message); err != nil {
		panic(err)
	}
	message.Code, message.Message = int32(codes.NotFound), "outermost"
	return status.ErrorProto(message)
}

// A VM that is dead is named as the cause, whatever the call got.
func TestDead(t *testing.T) {
	why := fmt.Errorf("the VMM crashed; its console: burning: %w", errdefs.ErrUnavailable)
	for _, when := range []string{"before the call", "during the call"} {
		t.Run(when, func(t *testing.T) {
			h := boot(t)
			if when == "before the call" {
				h.die(why)
			} else {
				h.dieDuring("Kill", why)
			}
			if err := kill(t, h); !errors.Is(err, why) || !strings.HasPrefix(err.Error(), "the VM is gone: the VMM crashed") {
				t.Errorf("Kill = %v", err)
			}
			if err := h.client.Alive(); !errors.Is(err, why) {
				t.Errorf("Alive = %v", err)
			}
		})
	}
}

// A VM that was stopped in order is gone, too.
func TestStopped(t *testing.T) {
	h := boot(t)
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{kill(t, h), h.client.Alive()} {
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the VM is gone") {
			t.Error(err)
		}
	}
}

// When the connection breaks, the end of the VM is waited for, but not for long.
func TestBroken(t *testing.T) {
	for name, c := range map[string]struct {
		dies time.Duration
		want string
	}{
		"and the VM lives": {time.Hour, "the agent's stream broke"},
		"and the VM dies":  {time.Second / 2, "the VM is gone: it burns"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := connect(t)
				go func() {
					_, _ = io.ReadFull(p, make([]byte, 10))
					p.Close()
					select {
					case <-time.After(c.dies):
						p.End(errors.New("it burns"))
					case <-p.Done():
					}
				}()
				began := time.Now()
				err := calls[0].make(t.Context(), p.client)
				if took := time.Since(began); took > time.Second || !strings.Contains(err.Error(), c.want) {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}
