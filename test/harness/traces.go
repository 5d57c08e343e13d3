package harness

import (
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/msb-runtime/containerd-shim-msb/test/collector"
)

// TracesEndpoint is where CollectTraces collects, for containerd and its shims.
const TracesEndpoint = "http://127.0.0.1:4318"

// CollectTraces collects the spans that are sent to TracesEndpoint in containerd's network,
// until stop is called.
func (h *Host) CollectTraces() (_ *collector.Collector, stop func() error, err error) {
	var listener net.Listener
	err = h.InNetwork(func() (err error) {
		listener, err = net.Listen("tcp", TracesEndpoint[len("http://"):])
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listening for traces: %w", err)
	}
	kept := new(collector.Collector)
	server := &http.Server{Handler: kept}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	return kept, func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}
