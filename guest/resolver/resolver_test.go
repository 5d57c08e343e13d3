package resolver

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A query that nobody answers fails for its client at once, and what is no query is not
// answered.
func TestFailure(t *testing.T) {
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true, CheckingDisabled: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(failure(packed)); err != nil {
		t.Fatal(err)
	}
	if answer.ID != 7 || !answer.Response || answer.RCode != dnsmessage.RCodeServerFailure || answer.Questions[0] != query.Questions[0] {
		t.Errorf("the answer is %+v", answer)
	}
	for _, none := range [][]byte{nil, packed[:11], failure(packed)} {
		if got := failure(none); got != nil {
			t.Errorf("%x is answered with %x", none, got)
		}
	}
}

// The host's answer counts; where nobody is there, the guest's own resolver is asked.
func TestAnswer(t *testing.T) {
	query := append([]byte{0, 7, 1, 0}, make([]byte, 20)...)
	for name, host := range map[string]func(net.Conn){
		"answers": func(stream net.Conn) { _ = api.WriteDatagram(stream, []byte("answer")) },
		"nobody":  func(stream net.Conn) { _ = api.WriteDatagram(stream, nil) },
		"leaves":  func(net.Conn) {},
		"refuses": nil,
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan *api.ResolverStream, 1)
			all := New(func(header *api.StreamHeader) (net.Conn, error) {
				asked <- header.GetResolver()
				if host == nil {
					return nil, errors.New("refused")
				}
				guest, stream := net.Pipe()
				go func() {
					defer stream.Close()
					if got, err := api.ReadDatagram(stream); err != nil || !bytes.Equal(got, query) {
						t.Errorf("the host got %x, %v", got, err)
					}
					host(stream)
				}()
				return guest, nil
			})
			// Nobody is at this address in the guest.
			r := &resolver{of: all, namespace: "/proc/self/ns/net", address: netip.MustParseAddr("127.77.0.1")}
			if os.Geteuid() != 0 {
				t.Fatal("this test enters a network namespace: run it as root")
			}
			got := r.answer(query)
			if name == "answers" && string(got) != "answer" || name != "answers" && (len(got) != len(query) || got[3] != 2) {
				t.Errorf("the client got %x", got)
			}
			if r := <-asked; r.Address != "127.77.0.1" || !r.Datagram {
				t.Errorf("the host was asked for %v", r)
			}
		})
	}
}
