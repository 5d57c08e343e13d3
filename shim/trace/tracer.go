package trace

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/log"
)

// The bounds of what a collector can cost, whatever it does.
const (
	// queued is how many spans wait for the collector. More are dropped.
	queued = 512
	// most is how many spans are in one request, and delay how long the first of them waits
	// for others.
	most  = 128
	delay = time.Second
	// patience is how long a request may take.
	patience = 5 * time.Second
	// maxAnswer is how much of an answer is read.
	maxAnswer = 64 << 10
	// quiet is how long nothing more is said of a collector that fails.
	quiet = time.Minute
)

// A Tracer sends spans to a collector. Nobody waits for it: what the collector does not take
// is dropped. A nil Tracer makes no spans.
type Tracer struct {
	target   Target
	resource []attribute
	patience time.Duration // how long a request may take

	spans  chan *span
	ending chan struct{} // closed by Close
	ended  chan struct{} // closed when nothing is sent any more
	ctx    context.Context
	cancel context.CancelFunc

	warned time.Time // the last warning
	lost   int       // spans since then
	wrong  string    // the file that the last warning was about
}

// Open returns a tracer for the shim of a sandbox, which ends with Close.
func Open(target Target, namespace, sandbox, version string) *Tracer {
	ctx, cancel := context.WithCancel(context.Background())
	t := &Tracer{
		target: target, patience: patience,
		resource: []attribute{
			{"service.name", "containerd-shim-msb"},
			{"service.version", version},
			{"containerd.namespace", namespace},
			{"msb.sandbox.id", sandbox},
		},
		spans: make(chan *span, queued), ending: make(chan struct{}), ended: make(chan struct{}),
		ctx: ctx, cancel: cancel,
	}
	go t.run()
	return t
}

// parting is how long Close waits for a request to notice that it was given up. One that reads a file
// of a server which is gone never does, and ends with the process.
const parting = time.Second

// Close sends what waits, until ctx ends. What ends later is dropped.
func (t *Tracer) Close(ctx context.Context) {
	if t == nil {
		return
	}
	close(t.ending)
	select {
	case <-t.ended:
	case <-ctx.Done():
	}
	t.cancel()
	select {
	case <-t.ended:
	case <-time.After(parting):
	}
}

// add queues a span that has ended, or drops it.
func (t *Tracer) add(s *span) {
	select {
	case t.spans <- s:
	default:
	}
}

// run sends spans until the tracer is closed.
func (t *Tracer) run() {
	defer close(t.ended)
	for {
		select {
		case first := <-t.spans:
			t.send(t.gather(first))
		case <-t.ending:
			t.flush()
			return
		}
	}
}

// gather is a span and those that end soon after it.
func (t *Tracer) gather(first *span) []*span {
	batch := []*span{first}
	due := time.NewTimer(delay)
	defer due.Stop()
	for len(batch) < most {
		select {
		case s := <-t.spans:
			batch = append(batch, s)
		case <-due.C:
			return batch
		case <-t.ending:
			return batch
		}
	}
	return batch
}

// flush sends what waits.
func (t *Tracer) flush() {
	for t.ctx.Err() == nil {
		var batch []*span
		for len(batch) < most && len(t.spans) > 0 {
			batch = append(batch, <-t.spans)
		}
		if len(batch) == 0 {
			return
		}
		t.send(batch)
	}
}

// send sends spans, once. If the collector does not take them, they are dropped, and the log
// says so at times.
func (t *Tracer) send(batch []*span) {
	err := t.post(request(t.resource, batch))
	if err == nil {
		t.wrong = ""
		return
	}
	t.lost += len(batch)
	file, wrong := new(FileError), ""
	if errors.As(err, &file) {
		wrong = file.Error()
	}
	if wrong != "" && wrong == t.wrong || time.Since(t.warned) < quiet {
		return // a file is the administrator's, and told once
	}
	t.wrong = wrong
	log.L.WithError(err).WithField("spans", t.lost).Warn("the collector of traces takes no spans, and they are dropped")
	t.warned, t.lost = time.Now(), 0
}

// post makes one request, on a connection of its own. net/http's client would cost each shim
// 1 MiB, with and without a collector; nothing of it is needed: whom the administrator has named
// is sent to, and no other whom that names.
func (t *Tracer) post(body []byte) error {
	ctx, cancel := context.WithTimeout(t.ctx, t.patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.target.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	headers, err := t.target.headers()
	if err != nil {
		return err
	}
	request.Close = true
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("User-Agent", "containerd-shim-msb")
	conn, relayed, err := t.target.dial(ctx, request.URL)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer cutOff(ctx, conn)()
	write := request.Write
	if relayed != nil {
		authorize(request, relayed)
		write = request.WriteProxy
	}
	if err := write(conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), request)
	if err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("its answer is %d", response.StatusCode)
	}
	return nil
}
