package collector

import (
	"encoding/hex"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

func spanOf(s *tracepb.Span, resource map[string]string) Span {
	span := Span{
		Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Name: s.GetName(), Kind: s.GetKind(),
		Began: time.Unix(0, int64(s.GetStartTimeUnixNano())), Ended: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Attributes: attributes(s.GetAttributes()), Resource: resource, Flags: s.GetFlags(),
	}
	if s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		span.Failed = s.GetStatus().GetMessage()
	}
	return span
}

func attributes(all []*commonpb.KeyValue) map[string]string {
	attributes := map[string]string{}
	for _, a := range all {
		attributes[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return attributes
}
