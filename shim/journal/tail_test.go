package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/shim/journal/api"
)

// texts are those of lines.
func texts(lines []Line) (all []string) {
	for _, line := range lines {
		all = append(all, line.Text)
	}
	return all
}

// The log is kept as it is written, but for the console's lines, whatever these say.
func TestKept(t *testing.T) {
	var written bytes.Buffer
	logger, tail, clock := logrus.New(), new(Tail), &clock{time: time.Now()}
	logger.SetOutput(&written)
	bound(logger, tail, clock.now)
	logger.Info("one")
	logger.WithField("source", "console").Info("two\nlevel=error msg=three")
	logger.WithField("source", "msb-shield").Info("source=console")
	fmt.Fprintln(logger.Out, "four")
	lines, _, _ := tail.From(0)
	kept := strings.Join(texts(lines), "\n") + "\n"
	if len(lines) != 3 || strings.Contains(kept, "two") || !strings.Contains(kept, "one") || !strings.Contains(kept, "msg=\"source=console\"") || !strings.HasSuffix(kept, "\nfour\n") {
		t.Errorf("kept: %q", kept)
	}
	if strings.Count(written.String(), "\n") != 4 || bytes.ContainsRune(written.Bytes(), 0) || !strings.Contains(written.String(), "two") {
		t.Errorf("written: %q", &written)
	}
	if !lines[0].Time.Equal(clock.now()) {
		t.Errorf("its time is %v", lines[0].Time)
	}
}

// Whatever comes, a tail has its bound, lines keep their numbers, and what is gone is counted.
func TestTailBound(t *testing.T) {
	for _, size := range []int{0, 1, 500, maxLine, 2 * maxTail} {
		var tail Tail
		lines := min(5000, 16<<20/(size+1))
		for i := range lines {
			tail.Add(time.Now(), fmt.Sprintf("%d %s", i, strings.Repeat("x", size)))
		}
		kept, lost, _ := tail.From(0)
		total := 0
		for i, line := range kept {
			total += line.size()
			if !strings.HasPrefix(line.Text, fmt.Sprint(int(lost)+i)+" ") {
				t.Fatalf("line %d begins with %.20q", int(lost)+i, line.Text)
			}
		}
		if len(kept)+int(lost) != lines || total > maxTail && len(kept) > 1 || size < maxTail && total < maxTail-maxLine-perLine-10 {
			t.Errorf("lines of %d bytes: %d lines with %d bytes, %d lost", size, len(kept), total, lost)
		}
		if tail.size != total || cap(tail.lines) > 4*maxTail/perLine {
			t.Errorf("lines of %d bytes: %d bytes for %d, room for %d", size, tail.size, total, cap(tail.lines))
		}
	}
}

// Who follows gets each line once and in order, or is told how many it has missed.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tail := new(Tail)
		tail.Add(time.Now(), "0")
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		hold := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- follow(ctx, tail, true, func(b *api.Batch) error {
				got = append(got, fmt.Sprintf("lost %d", b.GetLost()))
				for _, line := range b.GetLines() {
					got = append(got, string(line.GetText()))
				}
				<-hold
				return nil
			})
		}()
		synctest.Wait()
		// It is in the middle of a send, and these do not wait for it.
		const flood = 3000
		for i := range flood {
			tail.Add(time.Now(), fmt.Sprint(i+1))
		}
		hold <- struct{}{}
		synctest.Wait()
		hold <- struct{}{}
		synctest.Wait() // it has all, and waits
		tail.Add(time.Now(), "last")
		synctest.Wait()
		kept := len(got) - len([]string{"lost", "0", "lost", "lost", "last"})
		if want := fmt.Sprintf("lost %d", flood-kept); got[0] != "lost 0" || got[1] != "0" || got[2] != want || got[3] != fmt.Sprint(flood-kept+1) ||
			got[len(got)-3] != fmt.Sprint(flood) || got[len(got)-2] != "lost 0" || got[len(got)-1] != "last" || kept < 100 {
			t.Errorf("%d kept: %q … %q, want %s", kept, got[:4], got[len(got)-3:], want)
		}
		hold <- struct{}{}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An empty tail is an answer, and a send that fails is the end.
func TestFollowNothing(t *testing.T) {
	batches := 0
	if err := follow(t.Context(), new(Tail), false, func(b *api.Batch) error { batches++; return nil }); err != nil || batches != 1 {
		t.Errorf("%d batches, %v", batches, err)
	}
	broken := errors.New("broken")
	if err := follow(t.Context(), new(Tail), true, func(*api.Batch) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// connect is a connection to a service.
func connect(t *testing.T, service *Service) net.Conn {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService("journal", &ttrpc.ServiceDesc{Streams: map[string]ttrpc.Stream{"Read": {
		Handler:         func(ctx context.Context, s ttrpc.StreamServer) (any, error) { return nil, service.Read(ctx, s) },
		StreamingServer: true,
	}}})
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Close() })
	return conn
}

// request begins a call. ttrpc's own client is not for those who do not read: it gives up after
// a second.
func request(t *testing.T, conn net.Conn, id uint32, request *api.ReadRequest) {
	t.Helper()
	payload, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(&ttrpc.Request{Service: "journal", Method: "Read", Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	const isRequest, remoteClosed = 1, 1
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(data))), id)
	if _, err := conn.Write(append(append(header, isRequest, remoteClosed), data...)); err != nil {
		t.Fatal(err)
	}
}

// receive reads a batch, or the text of the error that the call has ended with.
func receive(t *testing.T, conn net.Conn) (batch *api.Batch, failed string) {
	t.Helper()
	header := make([]byte, 10)
	if _, err := io.ReadFull(conn, header); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, binary.BigEndian.Uint32(header))
	if _, err := io.ReadFull(conn, data); err != nil {
		t.Fatal(err)
	}
	const isResponse = 2
	response := new(ttrpc.Response)
	batch = new(api.Batch)
	var err error
	if header[8] == isResponse {
		err = proto.Unmarshal(data, response)
	} else {
		err = proto.Unmarshal(data, batch)
	}
	if err != nil {
		t.Fatal(err)
	}
	return batch, response.GetStatus().GetMessage()
}

// A reader that takes nothing holds up no line, however many come, and is told how many it has
// missed.
func TestReaderThatDoesNotRead(t *testing.T) {
	log := new(Tail)
	conn := connect(t, newService(log, new(Tail)))
	request(t, conn, 1, &api.ReadRequest{Follow: true})
	receive(t, conn)
	// More than all buffers between the two of them have.
	const lines = 10_000
	for i := range lines {
		log.Add(time.Now(), fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)))
	}
	got, lost := 0, 0
	for got+lost < lines {
		batch, failed := receive(t, conn)
		if failed != "" {
			t.Fatal(failed)
		}
		lost += int(batch.GetLost())
		for _, line := range batch.GetLines() {
			if !bytes.HasPrefix(line.GetText(), fmt.Appendf(nil, "%d ", got+lost)) {
				t.Fatalf("line %d begins with %.20q", got+lost, line.GetText())
			}
			got++
		}
	}
	if lost == 0 {
		t.Error("all of it came: nothing was held back")
	}
}

func TestRefusedReaders(t *testing.T) {
	service := newService(new(Tail), new(Tail))
	conn := connect(t, service)
	request(t, conn, 1, &api.ReadRequest{Source: 7})
	if _, failed := receive(t, conn); !strings.Contains(failed, "no source 7") {
		t.Errorf("another source: %q", failed)
	}
	for range maxReaders {
		request(t, connect(t, service), 1, &api.ReadRequest{Follow: true})
	}
	for len(service.slots) < maxReaders {
		runtime.Gosched()
	}
	request(t, conn, 3, new(api.ReadRequest))
	if _, failed := receive(t, conn); !strings.Contains(failed, "which is the most") {
		t.Errorf("one more reader: %q", failed)
	}
}
