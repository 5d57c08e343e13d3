package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/agent"
	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// variable is the environment variable with the words.
const variable = "MSB_HOSTILE"

// A word is one thing that the agent does.
type word struct{ verb, argument string }

// parse refuses what nothing here knows, so that a test does not pass because of a typing
// error.
func parse(text string) (words []word, err error) {
	for _, field := range strings.Fields(text) {
		verb, argument, _ := strings.Cut(field, ":")
		if answers[verb] == nil && attacks[verb] == nil && verb != mute && verb != as {
			return nil, fmt.Errorf("no such word: %s", field)
		}
		words = append(words, word{verb, argument})
	}
	return words, nil
}

// guest is what the words act upon.
type guest struct {
	session *mux.Session
	wire    *frames // of vm/mux
	rpc     *frames // of ttrpc

	mu        sync.Mutex
	words     []word             // guarded by mu, as all that follows
	send      agent.SendEvent    // nil until the host asks for events
	container string             // the last one
	sockets   []*api.SocketMount // its
}

// connection is called before anything is sent.
func (g *guest) connection(conn io.ReadWriteCloser) io.ReadWriteCloser {
	g.wire = newFrames(conn, mux.FrameSize, muxLength)
	return g.wire
}

// opened takes the words of the disk.
func (g *guest) opened(session *mux.Session) {
	g.session = session
	text := diskWords()
	if text == "" {
		return
	}
	if err := g.obey(text); err != nil {
		fmt.Fprintln(os.Stderr, "hostile agent:", err)
		return
	}
	g.attack()
}

// control is the stream that carries ttrpc.
type control struct {
	net.Conn
	frames *frames
}

// Read implements io.Reader.
func (c control) Read(p []byte) (int, error) { return c.frames.Read(p) }

// Write implements io.Writer.
func (c control) Write(p []byte) (int, error) { return c.frames.Write(p) }

func (g *guest) control(conn net.Conn) net.Conn {
	g.rpc = newFrames(conn, ttrpcHeader, ttrpcLength)
	return control{conn, g.rpc}
}

// events takes the way to send one, and lets through what is not muted.
func (g *guest) events(send agent.SendEvent) agent.SendEvent {
	g.mu.Lock()
	g.send = send
	g.mu.Unlock()
	return func(event *api.Event) error {
		for _, w := range g.obeyed() {
			if w.verb == mute && strings.HasSuffix(event.Topic, w.argument) {
				return nil
			}
		}
		return send(event)
	}
}

const (
	// mute keeps events back: those whose topic ends with the argument, such as "exit".
	mute = "mute"
	// as is what the agent calls itself on its console.
	as = "as"
)

// say tells on the console what the agent does, so that a test knows.
func (g *guest) say(format string, arguments ...any) {
	name := ""
	for _, w := range g.obeyed() {
		if w.verb == as {
			name = w.argument
		}
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, fmt.Sprintf(format, arguments...))
}

// obey takes more words.
func (g *guest) obey(text string) error {
	words, err := parse(text)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.words = append(g.words, words...)
	return nil
}

func (g *guest) obeyed() []word {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.words
}

// meet takes the words of a container that is about to be made.
func (g *guest) meet(request *api.CreateBundleRequest) error {
	var spec specs.Spec
	if err := json.Unmarshal(request.Spec, &spec); err != nil {
		return err
	}
	g.mu.Lock()
	g.container, g.sockets = request.Container, request.Sockets
	g.mu.Unlock()
	for _, entry := range spec.Process.Env {
		if text, found := strings.CutPrefix(entry, variable+"="); found {
			return g.obey(text)
		}
	}
	return nil
}

// patience is how long the host has to ask for events and to note that a container has
// started, before it is attacked.
const patience = time.Second

// attack starts all that the agent does by itself.
func (g *guest) attack() {
	for _, w := range g.obeyed() {
		if run := attacks[w.verb]; run != nil {
			go func() {
				time.Sleep(patience)
				g.say("begins %s:%s", w.verb, w.argument)
				err := run(context.Background(), g, w.argument)
				g.say("ended %s:%s: %v", w.verb, w.argument, err)
			}()
		}
	}
}
