package trace

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of OTLP that there are here (opentelemetry-proto,
// collector/trace/v1/trace_service.proto and trace/v1/trace.proto), field by field: the
// library for them would cost each shim 2 MiB, with and without a collector.

// Fields of messages with others in them.
const (
	requestResourceSpans = 1
	spansResource        = 1
	spansScopes          = 2
	scopeScope           = 1
	scopeSpans           = 2
	scopeName            = 1
	resourceAttributes   = 1
)

// Fields of a span.
const (
	spanTrace      = 1
	spanOwn        = 2
	spanParent     = 4
	spanName       = 5
	spanKind       = 6
	spanBegan      = 7
	spanEnded      = 8
	spanAttributes = 9
	spanStatus     = 15
	spanFlags      = 16
)

const (
	statusMessage = 2
	statusCode    = 3
	statusError   = 2

	// Of spanFlags: sampled, and whether the parent's process is another's.
	flagSampled    = 0x001
	flagKnowRemote = 0x100
	flagRemote     = 0x200
)

// An attribute is a name and a string.
type attribute struct{ name, value string }

// request is an ExportTraceServiceRequest with spans of one resource.
func request(resource []attribute, spans []*span) []byte {
	var about, scope []byte
	for _, a := range resource {
		about = message(about, resourceAttributes, a.encode())
	}
	scope = message(scope, scopeScope, text(nil, scopeName, "msb"))
	for _, s := range spans {
		scope = message(scope, scopeSpans, s.encode())
	}
	all := message(nil, spansResource, about)
	return message(nil, requestResourceSpans, message(all, spansScopes, scope))
}

func (s *span) encode() []byte {
	b := message(nil, spanTrace, s.trace[:])
	b = message(b, spanOwn, s.id[:])
	flags := uint32(flagSampled | flagKnowRemote)
	if s.parent != (spanID{}) {
		b = message(b, spanParent, s.parent[:])
	}
	if s.remote {
		flags |= flagRemote
	}
	b = text(b, spanName, s.name)
	b = number(b, spanKind, s.kind)
	b = at(b, spanBegan, s.began)
	b = at(b, spanEnded, s.ended)
	for _, a := range s.attributes() {
		b = message(b, spanAttributes, a.encode())
	}
	if s.failed {
		b = message(b, spanStatus, number(text(nil, statusMessage, s.class), statusCode, statusError))
	}
	b = protowire.AppendTag(b, spanFlags, protowire.Fixed32Type)
	return protowire.AppendFixed32(b, flags)
}

// attributes are all that a span says beside its name and its times.
func (s *span) attributes() (all []attribute) {
	if s.method != "" {
		all = append(all, attribute{"rpc.system", "ttrpc"}, attribute{"rpc.method", s.method})
	}
	if s.container != "" {
		all = append(all, attribute{"container.id", s.container})
	}
	if s.exec != "" {
		all = append(all, attribute{"msb.exec.id", s.exec})
	}
	return all
}

// encode makes a KeyValue.
func (a attribute) encode() []byte {
	const key, value, stringValue = 1, 2, 1
	return message(text(nil, key, a.name), value, text(nil, stringValue, a.value))
}

func message(b []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
}

func text(b []byte, field protowire.Number, content string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), content)
}

func number(b []byte, field protowire.Number, value int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(value))
}

func at(b []byte, field protowire.Number, when time.Time) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(when.UnixNano()))
}
