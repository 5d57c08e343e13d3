package api

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protodelim"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00", strings.Repeat("x", 256)} {
		if err := CheckName("tag", name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is taken for a name: %v", name, err)
		}
	}
	for _, name := range []string{"a", "...", "-", "\xff\n:;,", strings.Repeat("x", 255)} {
		if err := CheckName("tag", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What follows a header belongs to the stream's user, and arrives whole.
func TestStreamHeader(t *testing.T) {
	for name, refusal := range map[string]error{"accepted": nil, "refused": errors.New("no such thing")} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			defer host.Close()
			go func() {
				defer guest.Close()
				header, err := AcceptStream(guest)
				if err != nil || header.GetStdio().GetId() != "id" {
					t.Errorf("AcceptStream = %v, %v", header, err)
				}
				_ = ReplyStream(guest, refusal)
				_, _ = guest.Write([]byte("payload"))
			}()
			err := OpenStream(host, &StreamHeader{Purpose: &StreamHeader_Stdio{Stdio: &StdioStream{Id: "id"}}})
			if (err == nil) != (refusal == nil) {
				t.Errorf("OpenStream = %v", err)
			}
			if rest, _ := io.ReadAll(host); string(rest) != "payload" {
				t.Errorf("the rest is %q", rest)
			}
		})
	}
}

// A header is bounded, whatever length the other side announces.
func TestStreamHeaderBounds(t *testing.T) {
	var huge bytes.Buffer
	if _, err := protodelim.MarshalTo(&huge, &StreamReply{Error: strings.Repeat("x", 1<<20)}); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": {}, "cut": {10, 1}, "garbage": {3, 0xff, 0xff, 0xff}, "endless varint": bytes.Repeat([]byte{0xff}, 32), "huge": huge.Bytes(),
	} {
		if _, err := AcceptStream(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzAcceptStream(f *testing.F) {
	f.Add([]byte{2, 10, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = AcceptStream(bytes.NewReader(data))
	})
}
