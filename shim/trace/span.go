package trace

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// Kinds of spans, as OTLP numbers them.
const (
	internal = 1
	server   = 2
	client   = 3
)

type (
	traceID [16]byte
	spanID  [8]byte
)

// A span is a piece of work in a trace. A nil span is none.
type span struct {
	tracer *Tracer
	trace  traceID
	id     spanID
	parent spanID // zero if there is none
	remote bool   // whether parent is in another process
	kind   int
	name   string
	method string // of a call: service/method

	// Set before there is a child.
	container, exec string

	began, ended time.Time
	failed       bool
	class        string // of the error, if failed
}

type spanKey struct{}

// of is the span that ctx has.
func of(ctx context.Context) *span {
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// child begins a span below the one that ctx has. Without that there is none, and ctx is as
// it was.
func child(ctx context.Context, kind int, name string, began time.Time) (context.Context, *span) {
	parent := of(ctx)
	if parent == nil {
		return ctx, nil
	}
	s := &span{
		tracer: parent.tracer, trace: parent.trace, id: newSpanID(), parent: parent.id,
		kind: kind, name: name, container: parent.container, exec: parent.exec, began: began,
	}
	return context.WithValue(ctx, spanKey{}, s), s
}

// end gives the span to its tracer.
func (s *span) end(err *error) {
	if s == nil {
		return
	}
	s.ended = time.Now()
	if err != nil && *err != nil {
		s.failed, s.class = true, classOf(*err)
	}
	s.tracer.add(s)
}

// classOf is an error's class in a word or two, and never its text.
func classOf(err error) string {
	class := errdefs.Resolve(err)
	if errors.Is(class, errdefs.ErrUnknown) { // of a call, whose errors have a code
		class = errdefs.Resolve(errgrpc.ToNative(err))
	}
	return class.Error()
}

// A parent is what the caller of a call says of its trace.
type parent struct {
	trace   traceID
	span    spanID
	sampled bool
}

// parseParent reads a header traceparent (W3C Trace Context, 3.2). What is not one is none.
func parseParent(header string) (p parent, ok bool) {
	const (
		length  = 55
		invalid = "ff"
	)
	if len(header) < length || header[2] != '-' || header[35] != '-' || header[52] != '-' {
		return parent{}, false
	}
	version := header[:2]
	// Later versions may have more behind another dash.
	if version == invalid || len(header) > length && (version == "00" || header[length] != '-') {
		return parent{}, false
	}
	var flags, number [1]byte
	for _, part := range []struct {
		to   []byte
		from string
	}{{number[:], version}, {p.trace[:], header[3:35]}, {p.span[:], header[36:52]}, {flags[:], header[53:length]}} {
		if !decode(part.to, part.from) {
			return parent{}, false
		}
	}
	p.sampled = flags[0]&1 != 0
	return p, p.trace != traceID{} && p.span != spanID{}
}

// decode reads lower-case hexadecimal digits.
func decode(to []byte, from string) bool {
	for _, c := range []byte(from) {
		if c >= 'A' && c <= 'F' {
			return false
		}
	}
	n, err := hex.Decode(to, []byte(from))
	return err == nil && n == len(to)
}

func newTraceID() (id traceID) {
	for id == (traceID{}) {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

func newSpanID() (id spanID) {
	for id == (spanID{}) {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
