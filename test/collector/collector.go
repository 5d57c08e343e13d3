// Package collector is a collector of OpenTelemetry's traces for tests: it keeps the spans that
// it was sent, as the library of the protocol reads them.
package collector

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A Span is one that was sent.
type Span struct {
	Trace, ID, Parent string
	Name              string
	Kind              tracepb.Span_SpanKind
	Began, Ended      time.Time
	// Attributes are the span's own, Resource those of its shim.
	Attributes, Resource map[string]string
	// Failed is the class of its error, if it has one.
	Failed string
	Flags  uint32
}

// A Collector takes spans at /v1/traces. The zero Collector is ready.
type Collector struct {
	mu      sync.Mutex
	spans   []Span        // guarded by mu
	changed chan struct{} // closed when spans come; guarded by mu
}

// ServeHTTP implements http.Handler. A request that the protocol does not know is refused.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var data tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(body, &data)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not a request of OTLP/HTTP", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range data.GetResourceSpans() {
		resource := attributes(from.GetResource().GetAttributes())
		for _, scope := range from.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, spanOf(span, resource))
			}
		}
	}
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// Spans are those that have come, in the order of their beginnings.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	spans := slices.Clone(c.spans)
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Began.Compare(b.Began) })
	return spans
}

// Changed is closed when more spans have come.
func (c *Collector) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}
