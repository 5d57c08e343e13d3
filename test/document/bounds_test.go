package document

import (
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestBounds holds the numbers of docs/security.md to the code. The tests of a bound attack it, and most
// of them read the constant themselves: they would not miss that it is ten times as much.
func TestBounds(t *testing.T) {
	const page = "../../docs/security.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, bound := range []struct{ file, name, value, says string }{
		{"guest/api/clock.go", "ClockBurst", "20", "| 20 times at once, then 10 per second. Beyond that it is not told any more"},
		{"guest/api/clock.go", "ClockPerSecond", "10", "then 10 per second. Beyond that it is not told any more"},
		{"guest/api/datagram.go", "MaxResolvers", "8", "resolv.conf (8 with Docker's)"},
		{"guest/api/datagram.go", "QueryTimeout", "15 * time.Second", "| 128 queries, 15 s each;"},
		{"guest/api/datagram.go", "maxDatagram", "1<<16 - 1", "| 64 KiB; one answer to each |"},
		{"guest/api/stream.go", "MaxOpening", "16", "| 16 at a time, 5 s for each |"},
		{"guest/api/stream.go", "maxExit", "64", "the directory is taken back; 64 bytes |"},
		{"guest/api/stream.go", "maxHeader", "4 << 10", "sends a long header | 4 KiB |"},
		{"shim/cgroup/limits.go", "maxTasks", "1024", "| 1,024 processes and threads for the VM's group, always |"},
		{"shim/cgroup/limits.go", "vmmAllowance", "256 << 20", "| its RAM and 256 MiB, always |"},
		{"shim/events/follow.go", "repeatBurst", "10", "| 10 at once, then 1 per second, for each container |"},
		{"shim/events/follow.go", "repeatPerSecond", "1", "| 10 at once, then 1 per second, for each container |"},
		{"shim/events/queue.go", "maxPending", "4096", "| 4,096 wait; what comes then is lost"},
		{"shim/guest/calls.go", "metricsType", `"io.containerd.cgroups.v2.Metrics"`, "answers with metrics of another type | refused |"},
		{"shim/guest/client.go", "maxStats", "16", "| 1 s, and at most 16 at a time."},
		{"shim/guest/client.go", "muteFor", "5 * time.Second", "for 5 s at once for all containers of its VM"},
		{"shim/guest/errors.go", "maxText", "4 << 10", "sends a long error text | 4 KiB of it are kept |"},
		{"shim/guest/frames.go", "maxFrame", "64 << 10", "| 64 KiB, then its VM ends |"},
		{"shim/journal/journal.go", "burst", "512 << 10", "| 512 KiB at once, then 8 KiB per second; 8 KiB of a line |"},
		{"shim/journal/journal.go", "maxLine", "8 << 10", "8 KiB of a line |"},
		{"shim/journal/journal.go", "perSecond", "8 << 10", "then 8 KiB per second; 8 KiB of a line |"},
		{"shim/journal/serve.go", "maxReaders", "8", "8 may read at a time"},
		{"shim/journal/tail.go", "maxTail", "64 << 10", "| 64 KiB of the log and of the console, apart"},
		{"shim/network/loopback.go", "MaxForwarded", "128", "loopback connections, or floods them | 128 |"},
		{"shim/resolver/resolver.go", "MaxConnections", "128", "128 connections, 2 min each |"},
		{"shim/resolver/resolver.go", "MaxQueries", "128", "| 128 queries, 15 s each;"},
		{"shim/resolver/resolver.go", "connectionTimeout", "2 * time.Minute", "128 connections, 2 min each |"},
		{"shim/shell/shell.go", "maxPrograms", "4", "a second after the VM. 4 at a time |"},
		{"shim/shield/server/metadata.go", "maxAttributes", "64 << 10", "| 64 KiB for each file |"},
		{"shim/socket/socket.go", "HeaderTimeout", "5 * time.Second", "| 16 at a time, 5 s for each |"},
		{"shim/socket/socket.go", "MaxConnections", "256", "| 256 for all sockets |"},
		{"shim/stdio/stdio.go", "idle", "2 * time.Second", "a deletion waits 2 to 4 s for output that stands still, 20 s in all |"},
		{"shim/stdio/stdio.go", "longest", "20 * time.Second", "a deletion waits 2 to 4 s for output that stands still, 20 s in all |"},
		{"shim/transfer/relay.go", "maxText", "4 << 10", "| 4 KiB of it are kept, printable |"},
		{"shim/transfer/stream.go", "Window", "64 << 10", "64 KiB unread on each"},
		{"shim/transfer/transfer.go", "Idle", "2 * time.Minute", "| 2 min, then the transfer ends; its VM runs on |"},
		{"shim/transfer/transfer.go", "MaxStreams", "32", "8 transfers and 32 streams at a time"},
		{"shim/transfer/transfer.go", "MaxTransfers", "8", "8 transfers and 32 streams at a time"},
		{"shim/transfer/transfer.go", "Unclaimed", "30 * time.Second", "30 s for a\nstream without a transfer"},
		{"ctl/screen/screen.go", "maxIgnored", "4 << 10", "| given up after 4 KiB |"},
		{"ctl/screen/screen.go", "maxSequence", "64", "is undone at the end; 64 bytes of a sequence |"},
		{"vm/console.go", "consoleBurst", "200", "| 200 lines at once, then 20 per second |"},
		{"vm/console.go", "consoleLine", "512", "| 512 bytes of a line;"},
		{"vm/console.go", "consolePerSecond", "20", "| 200 lines at once, then 20 per second |"},
		{"vm/console.go", "consoleTail", "20", "the last 20 lines are kept for errors |"},
		{"vm/jail/jail.go", "maxDescriptors", "1 << 20", "| descriptors: the smaller of the hard limit and 1 Mi |"},
		{"vm/mux/mux.go", "Backlog", "32", "| 32 wait; one more ends its VM |"},
		{"vm/mux/mux.go", "ControlBuffer", "64 << 10", "| 192 KiB wait, a write waits for a minute."},
		{"vm/mux/mux.go", "LargeStreams", "16", "| a stream holds 32 KiB, 16 of a VM 256 KiB;"},
		{"vm/mux/mux.go", "LargeWindow", "256 << 10", "| a stream holds 32 KiB, 16 of a VM 256 KiB;"},
		{"vm/mux/mux.go", "SendBuffer", "128 << 10", "| 192 KiB wait, a write waits for a minute."},
		{"vm/mux/mux.go", "StallTimeout", "time.Minute", "a write waits for a minute."},
		{"vm/mux/mux.go", "Window", "32 << 10", "| a stream holds 32 KiB,"},
	} {
		if !strings.Contains(string(text), bound.says) {
			t.Errorf("docs/security.md does not say %q, which is %s in %s", bound.says, bound.name, bound.file)
		}
		if is := constant(t, bound.file, bound.name); is != bound.value {
			t.Errorf("%s has %s = %s, and docs/security.md says %q: change both, and this test", bound.file, bound.name, is, bound.says)
		}
	}
}

// constant is a constant of a file, as it is written there.
func constant(t *testing.T, file, name string) string {
	t.Helper()
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, "../../"+file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, declared := range parsed.Decls {
		group, ok := declared.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			values := spec.(*ast.ValueSpec)
			for i, named := range values.Names {
				if named.Name != name || i >= len(values.Values) {
					continue
				}
				var text strings.Builder
				if err := format.Node(&text, files, values.Values[i]); err != nil {
					t.Fatal(err)
				}
				return text.String()
			}
		}
	}
	return "nothing"
}
