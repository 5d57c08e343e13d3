package transfer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/streaming/proxy"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/transfer"
	"github.com/msb-runtime/containerd-shim-msb/test/copy"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// wantClass fails the test unless an error is of a class, and its transfer took no longer
// than it may stand still.
func wantClass(t *testing.T, what string, err error, is func(error) bool, began time.Time) {
	t.Helper()
	if !is(err) {
		t.Errorf("%s: %v", what, err)
	}
	if took := time.Since(began); took > transfer.Idle+time.Minute {
		t.Errorf("%s: it took %v", what, took)
	}
}

// A guest that does not do its part ends its transfer, with an error. Its VM runs on.
func TestHostileGuest(t *testing.T) {
	hang := func(stream net.Conn, _ *api.TransferStream) {
		_, _ = io.Copy(io.Discard, stream)
		time.Sleep(2 * transfer.Idle)
	}
	for name, c := range map[string]struct {
		serve   fake.Transfer
		out, in func(error) bool
	}{
		"sends nothing": {hang, errdefs.IsDeadlineExceeded, errdefs.IsDeadlineExceeded},
		"hangs up":      {func(net.Conn, *api.TransferStream) {}, errdefs.IsUnavailable, errdefs.IsUnavailable},
		"sends a long frame": {func(stream net.Conn, h *api.TransferStream) {
			_, _ = stream.Write(binary.AppendUvarint(nil, 1<<30))
			hang(stream, h)
		}, errdefs.IsUnavailable, errdefs.IsUnavailable},
		"sends a frame of an endless length": {func(stream net.Conn, h *api.TransferStream) {
			_, _ = stream.Write(bytes.Repeat([]byte{0xff}, 64))
			hang(stream, h)
		}, errdefs.IsUnavailable, errdefs.IsUnavailable},
		"sends what is no frame": {func(stream net.Conn, h *api.TransferStream) {
			_, _ = stream.Write([]byte{2, 7, 7})
			hang(stream, h)
		}, errdefs.IsUnavailable, errdefs.IsUnavailable},
		"sends empty frames": {func(stream net.Conn, _ *api.TransferStream) {
			// No time passes in a bubble that is busy with them, and so no limit.
			const most = 1_000_000 // many more than can be on their way
			for range most {
				if api.SendTransfer(stream, new(api.TransferFrame)) != nil {
					return
				}
			}
			t.Errorf("%d frames with nothing in them were taken", most)
		}, errdefs.IsUnavailable, errdefs.IsUnavailable},
		"sends half a frame": {func(stream net.Conn, h *api.TransferStream) {
			_, _ = stream.Write([]byte{100, 10})
			hang(stream, h)
		}, errdefs.IsDeadlineExceeded, errdefs.IsDeadlineExceeded},
		"sends an archive where it has to take one": {func(stream net.Conn, _ *api.TransferStream) {
			for api.SendTransfer(stream, &api.TransferFrame{Data: make([]byte, api.TransferChunk)}) == nil {
			}
		}, func(err error) bool { return true }, errdefs.IsUnavailable},
		"tells a long error": {func(stream net.Conn, _ *api.TransferStream) {
			fake.EndTransfer(stream, codes.NotFound, strings.Repeat("\x1b[2J", 8<<10/4))
		}, shortNotFound, shortNotFound},
		"tells a code that is none": {func(stream net.Conn, _ *api.TransferStream) {
			fake.EndTransfer(stream, math.MaxUint32, "x")
		}, isError, isError},
		"ends an import early": {func(stream net.Conn, h *api.TransferStream) {
			if h.Direction == api.TransferStream_IMPORT {
				fake.EndTransfer(stream, codes.OK, "")
			}
		}, errdefs.IsUnavailable, errdefs.IsAborted},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.Agent().OnTransfer(c.serve)
				began := time.Now()
				if name != "sends an archive where it has to take one" {
					_, err := w.out("/a")
					wantClass(t, "out", err, c.out, began)
				}
				began = time.Now()
				pipe, stuck := io.Pipe() // an archive that does not end
				defer stuck.Close()
				go func() {
					_, _ = stuck.Write(make([]byte, 1<<20))
					if strings.Contains(name, "nothing") || strings.Contains(name, "half") {
						stuck.Close()
					}
				}()
				defer pipe.Close()
				err := copy.In(w.t.Context(), w.client, at("/a"), pipe)
				wantClass(t, "in", err, c.in, began)
				time.Sleep(3 * transfer.Idle) // for the guest
				if _, err := w.Pod.Sandbox(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func isError(err error) bool { return err != nil }

func shortNotFound(err error) bool {
	return errdefs.IsNotFound(err) && len(err.Error()) < 5<<10 && !strings.Contains(err.Error(), "\x1b")
}

// A guest that floods is taken from as fast as the client reads: no faster.
func TestFlood(t *testing.T) {
	bubble(t, func(w *world) {
		sent := 0
		w.Agent().OnTransfer(func(stream net.Conn, _ *api.TransferStream) {
			for api.SendTransfer(stream, &api.TransferFrame{Data: make([]byte, api.TransferChunk)}) == nil {
				sent += api.TransferChunk
			}
		})
		stream := w.open("s")
		began := time.Now()
		if err := stream.Send(pack(t, &types.WindowUpdate{Update: 100})); err != nil {
			t.Fatal(err)
		}
		wantClass(t, "a client that reads 100 bytes", w.transfer(at("/a"), writer("s")), errdefs.IsDeadlineExceeded, began)
		got := 0
		for {
			message, err := stream.Recv()
			if err != nil {
				break
			}
			got += len(message.GetValue())
		}
		if got < 100 || got > 110 {
			t.Errorf("the client got %d bytes", got)
		}
		if sent > 1<<20 {
			t.Errorf("the guest sent %d bytes", sent)
		}
	})
}

// A client that breaks the rules of a stream ends its transfer.
func TestHostileClient(t *testing.T) {
	for name, c := range map[string]struct {
		sends proto.Message
		is    func(error) bool
	}{
		"more than its window": {&types.Data{Data: make([]byte, transfer.Window+1)}, errdefs.IsResourceExhausted},
		"a negative window":    {&types.WindowUpdate{Update: -1}, errdefs.IsInvalidArgument},
		"another message":      {&emptypb.Empty{}, errdefs.IsInvalidArgument},
		"no message":           {nil, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				stream := w.open("s")
				answer := make(chan error, 1)
				began := time.Now()
				go func() { answer <- w.transfer(reader("s"), at("/a")) }()
				if _, err := stream.Recv(); err != nil { // the window
					t.Fatal(err)
				}
				message := pack(t, &emptypb.Empty{})
				if c.sends != nil {
					message = pack(t, c.sends)
				} else {
					message.TypeUrl = "no.such.Type"
				}
				if err := stream.Send(message); err != nil {
					t.Fatal(err)
				}
				wantClass(t, "the transfer", <-answer, c.is, began)
				if w.Agent().Archive("/a") != nil {
					t.Error("the guest took the archive for a whole one")
				}
			})
		})
	}
}

// Windows add up, however large they are.
func TestLargeWindows(t *testing.T) {
	bubble(t, func(w *world) {
		if err := w.in("/a", make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		stream := w.open("s")
		for range 100 {
			if err := stream.Send(pack(t, &types.WindowUpdate{Update: math.MaxInt32})); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			for {
				if _, err := stream.Recv(); err != nil {
					return
				}
			}
		}()
		if err := w.transfer(at("/a"), writer("s")); err != nil {
			t.Error(err)
		}
	})
}

// A client that neither sends nor ends its archive, and one that leaves in its middle, end
// the transfer; the guest does not take it for a whole one.
func TestClientLeaves(t *testing.T) {
	for name, leave := range map[string]func(w *world){
		"stands still":          func(*world) {},
		"closes the connection": func(w *world) { w.client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				ended := make(chan error, 1)
				w.Agent().OnTransfer(func(stream net.Conn, _ *api.TransferStream) {
					_, err := io.Copy(io.Discard, stream)
					ended <- err
				})
				stream := w.open("s")
				answer := make(chan error, 1)
				go func() { answer <- w.transfer(reader("s"), at("/a")) }()
				if _, err := stream.Recv(); err != nil {
					t.Fatal(err)
				}
				if err := stream.Send(pack(t, &types.Data{Data: make([]byte, 1000)})); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				leave(w)
				wantClass(t, "the transfer", <-answer, isError, began)
				if err := <-ended; err == nil {
					t.Error("the guest saw the end of the archive")
				}
			})
		})
	}
}

// A deletion does not wait for transfers: they end.
func TestDeletedMeanwhile(t *testing.T) {
	bubble(t, func(w *world) {
		w.Agent().OnTransfer(func(stream net.Conn, _ *api.TransferStream) { _, _ = io.Copy(io.Discard, stream) })
		answer := make(chan error, 1)
		go func() {
			_, err := w.out("/a")
			answer <- err
		}()
		for len(w.Agent().Calls("Stream.Transfer")) == 0 {
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		w.remove()
		err := <-answer
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "is being deleted") {
			t.Errorf("the transfer: %v", err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("the deletion took %v", took)
		}
	})
}

// A stream belongs to one transfer, an id to one stream, and one that no transfer takes ends.
func TestStreams(t *testing.T) {
	bubble(t, func(w *world) {
		creator := proxy.NewStreamCreator(w.client)
		w.Agent().OnTransfer(func(stream net.Conn, _ *api.TransferStream) { _, _ = io.Copy(io.Discard, stream) })
		w.open("s")
		if _, err := creator.Create(w.t.Context(), "s"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second stream of one id: %v", err)
		}
		for _, id := range []string{"", strings.Repeat("x", 257)} {
			if _, err := creator.Create(w.t.Context(), id); !errdefs.IsInvalidArgument(err) {
				t.Errorf("an id of %d bytes: %v", len(id), err)
			}
		}
		go func() { _ = w.transfer(at("/a"), writer("s")) }()
		for len(w.Agent().Calls("Stream.Transfer")) == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := w.transfer(at("/a"), writer("s")); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a second transfer on one stream: %v", err)
		}
		began := time.Now()
		if _, err := w.open("unclaimed").Recv(); !errdefs.IsDeadlineExceeded(err) || time.Since(began) > 2*transfer.Unclaimed {
			t.Errorf("a stream that no transfer takes: %v after %v", err, time.Since(began))
		}
		silent, err := streamingapi.NewTTRPCStreamingClient(w.client).Stream(w.t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := silent.Recv(); !errdefs.IsDeadlineExceeded(errgrpc.ToNative(err)) {
			t.Errorf("a stream without a first message: %v", err)
		}
		other, err := streamingapi.NewTTRPCStreamingClient(w.client).Stream(w.t.Context())
		if err == nil {
			err = other.Send(pack(t, &emptypb.Empty{}))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Recv(); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
			t.Errorf("a stream with another first message: %v", err)
		}
	})
}

// There are so many streams and transfers at a time; one more is refused, and there is room
// again when they have ended.
func TestTooMany(t *testing.T) {
	bubble(t, func(w *world) {
		creator := proxy.NewStreamCreator(w.client)
		w.Agent().OnTransfer(func(stream net.Conn, _ *api.TransferStream) { _, _ = io.Copy(io.Discard, stream) })
		for i := range transfer.MaxStreams {
			w.open(strconv.Itoa(i))
		}
		if _, err := creator.Create(w.t.Context(), "more"); !errdefs.IsResourceExhausted(err) {
			t.Errorf("one stream more: %v", err)
		}
		answers := make(chan error)
		for i := range transfer.MaxTransfers {
			go func() { answers <- w.transfer(at("/a"), writer(strconv.Itoa(i))) }()
		}
		for len(w.Agent().Calls("Stream.Transfer")) < transfer.MaxTransfers {
			time.Sleep(time.Millisecond)
		}
		if err := w.transfer(at("/a"), writer(strconv.Itoa(transfer.MaxTransfers))); !errdefs.IsResourceExhausted(err) {
			t.Errorf("one transfer more: %v", err)
		}
		for range transfer.MaxTransfers {
			if err := <-answers; !errdefs.IsDeadlineExceeded(err) {
				t.Error(err)
			}
		}
		w.Agent().OnTransfer(nil)
		if err := w.in("/a", []byte("x")); err != nil {
			t.Errorf("after all of them: %v", err)
		}
	})
}

// The VM may end at any time.
func TestVMEnds(t *testing.T) {
	bubble(t, func(w *world) {
		w.Agent().OnTransfer(func(stream net.Conn, _ *api.TransferStream) { w.Machine().Die(errors.New("test")) })
		if _, err := w.out("/a"); !errdefs.IsUnavailable(err) {
			t.Errorf("out: %v", err)
		}
		if err := w.in("/a", nil); !errdefs.IsUnavailable(err) {
			t.Errorf("in, when it is gone: %v", err)
		}
	})
}
