package main

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

func TestParse(t *testing.T) {
	words, err := parse("as:me hang:Delete  event:oom,5 deaf")
	if err != nil || len(words) != 4 || words[2] != (word{"event", "oom,5"}) || words[3] != (word{verb: "deaf"}) {
		t.Errorf("%q, %v", words, err)
	}
	if _, err := parse("hang:Delete hnag:Kill"); err == nil {
		t.Error("a word that there is not was taken")
	}
}

func TestIsAbout(t *testing.T) {
	for argument, methods := range map[string]map[string]bool{
		"Delete":      {"/containerd.task.v3.Task/Delete": true, "/containerd.task.v3.Task/Kill": false},
		"Guest/Start": {"/msb.guest.v1.Guest/Start": true, "/containerd.task.v3.Task/Start": false},
		"Task/Start":  {"/msb.guest.v1.Guest/Start": false, "/containerd.task.v3.Task/Start": true},
		"*":           {"/containerd.task.v3.Task/Delete": true},
		"exec.Start":  {"/containerd.task.v3.Task/Start": false},
	} {
		for method, want := range methods {
			if got := isAbout(argument, method, false); got != want {
				t.Errorf("%s is about %s: %t", argument, method, got)
			}
		}
	}
	if !isAbout("exec.Start", "/containerd.task.v3.Task/Start", true) {
		t.Error("exec.Start is not about the start of an exec")
	}
}

func TestIsExec(t *testing.T) {
	for method, message := range map[string]proto.Message{
		"Start":  &taskapi.StartRequest{ID: "c", ExecID: "e"},
		"Exec":   &taskapi.ExecProcessRequest{ID: "c", ExecID: "e"},
		"Delete": &taskapi.DeleteRequest{ID: "c"},
		"Create": &taskapi.CreateTaskRequest{ID: "c", Bundle: "/b"},
	} {
		want := method == "Start" || method == "Exec"
		got := isExec(&ttrpc.UnaryServerInfo{FullMethod: "/containerd.task.v3.Task/" + method}, func(into any) error {
			data, err := proto.Marshal(message)
			return errors.Join(err, proto.Unmarshal(data, into.(proto.Message)))
		})
		if got != want {
			t.Errorf("%s: %t", method, got)
		}
	}
}

// wire is a connection that keeps what is written.
type wire struct {
	bytes.Buffer
}

func (*wire) Close() error { return nil }

// What is put comes between frames, however the frames are written.
func TestFrames(t *testing.T) {
	first := muxFrame(mux.FrameData, 1, 3, []byte("abc"))
	second := muxFrame(mux.FrameCredit, 1, 1<<20, nil) // its length is no length
	for _, piece := range []int{1, 5, mux.FrameSize, mux.FrameSize + 3} {
		var conn wire
		f := newFrames(&conn, mux.FrameSize, muxLength)
		put := make(chan error, 1)
		for rest, begun := first, false; len(rest) > 0; begun = true {
			n := min(piece, len(rest))
			if _, err := f.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			if !begun {
				go func() { put <- f.put([]byte("PUT")) }()
			}
		}
		if err := <-put; err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(second); err != nil {
			t.Fatal(err)
		}
		if want := string(first) + "PUT" + string(second); conn.String() != want {
			t.Errorf("in pieces of %d: %q", piece, conn.String())
		}
	}
}

// Each way of an attack makes messages of which ttrpc takes no more than it allows.
func TestEvents(t *testing.T) {
	for kind, made := range lies {
		for _, event := range made("container", 7) {
			data, err := proto.Marshal(event)
			if err != nil || len(data) > 4*mib {
				t.Errorf("%s: %d bytes, %v", kind, len(data), err)
			}
		}
	}
}

var _ io.ReadWriteCloser = (*wire)(nil)
