package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// A clock stands still until a test sets it on.
type clock struct {
	mu   sync.Mutex
	time time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.time = c.time.Add(d)
}

// bounded is a logger as pkg/shim makes it, bounded, and what it has written.
func bounded() (*logrus.Logger, *bytes.Buffer, *clock) {
	var written bytes.Buffer
	logger, clock := logrus.New(), &clock{time: time.Now()}
	logger.SetFormatter(&logrus.TextFormatter{TimestampFormat: log.RFC3339NanoFixed, FullTimestamp: true})
	logger.SetOutput(&written)
	bound(logger, new(Tail), clock.now)
	return logger, &written, clock
}

// A quiet log is as it was.
func TestQuiet(t *testing.T) {
	plain, written := logrus.New(), new(bytes.Buffer)
	plain.SetOutput(written)
	Bound(plain)
	once := plain.Out
	if Bound(plain); plain.Out != once {
		t.Error("bound twice")
	}
	want := new(bytes.Buffer)
	reference := logrus.New()
	reference.SetOutput(want)
	at := time.Now()
	for _, logger := range []*logrus.Logger{plain, reference} {
		logger.WithTime(at).WithField("id", "a b").Warn("one\n\"two\"")
		logger.WithTime(at).Info(strings.Repeat("x", maxLine-200))
	}
	if written.String() != want.String() || want.Len() == 0 {
		t.Errorf("written: %s\nnot: %s", written, want)
	}
}

// Each line tells whose it is, of the console and of what was dropped, too. What it says itself
// stays.
func TestNamed(t *testing.T) {
	var written bytes.Buffer
	logger, tail, clock := logrus.New(), new(Tail), &clock{time: time.Now()}
	logger.SetOutput(&written)
	Named(logger, logrus.Fields{"sandbox": "s 1", "namespace": "n"})
	bound(logger, tail, clock.now)
	entry := logger.WithField("id", "c")
	entry.Warn("a")
	logger.WithField(sourceField, consoleSource).Info("b")
	logger.WithField("sandbox", "other").Info("c")
	for range 2 * burst / maxLine {
		logger.Info(strings.Repeat("x", 2*maxLine))
	}
	clock.add(time.Minute)
	logger.Info("d")
	for line := range strings.Lines(written.String()) {
		if strings.Contains(line, "xxx") {
			continue
		}
		for field, want := range map[string]string{
			"sandbox": `sandbox="s 1"`, "namespace": "namespace=n",
		} {
			if strings.Contains(line, "msg=c ") && field == "sandbox" {
				want = "sandbox=other"
			}
			if strings.Count(line, field+"=") != 1 || !strings.Contains(line, want) {
				t.Errorf("no %s in %s", want, line)
			}
		}
	}
	for _, want := range []string{"msg=a id=c ", "msg=b ", "lines of the shim's log were dropped", "msg=d "} {
		if !strings.Contains(written.String(), want) {
			t.Errorf("no %s", want)
		}
	}
	if len(entry.Data) != 1 {
		t.Errorf("the caller's entry has %v", entry.Data)
	}
	lines, _, _ := tail.From(0)
	for _, line := range lines {
		if strings.Contains(line.Text, "msg=b ") {
			t.Errorf("a line of the console is kept as the shim's: %s", line.Text)
		}
	}
}

// What a guest can make the log grow by in any minute is less than a mebibyte,
// whatever the size of the lines.
func TestFlood(t *testing.T) {
	const most = 1 << 20
	for _, size := range []int{0, 100, 1000, 20_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			logger, written, clock := bounded()
			text := strings.Repeat("x", size)
			const step = 250 * time.Millisecond
			for elapsed := time.Duration(0); elapsed < time.Minute; elapsed += step {
				// As fast as a guest can, or until nothing passes any more.
				for before := -1; before != written.Len() && before <= most; {
					before = written.Len()
					for range 3 {
						logger.Warn(text)
					}
				}
				clock.add(step)
			}
			if got := written.Len(); got > most || got < most*8/10 {
				t.Errorf("%d bytes in a minute", got)
			}
			if notes := strings.Count(written.String(), "were dropped"); notes == 0 || notes > 60 {
				t.Errorf("%d times was told what was dropped", notes)
			}
		})
	}
}

// When it calms down, one line tells how many were dropped, in the log's format.
func TestCalm(t *testing.T) {
	logger, written, clock := bounded()
	const lines = 10_000
	for range lines {
		logger.Warn(strings.Repeat("x", 1000))
	}
	passed := strings.Count(written.String(), "\n")
	written.Reset()
	clock.add(2 * time.Second)
	logger.Info("calm")
	logger.Info("again")
	got := strings.Split(written.String(), "\n")
	if len(got) != 4 || fields(t, got[0])["level"] != "warning" ||
		!strings.HasPrefix(fields(t, got[0])["msg"], fmt.Sprintf("%d lines of the shim's log were dropped", lines-passed)) ||
		fields(t, got[1])["msg"] != "calm" || fields(t, got[2])["msg"] != "again" {
		t.Errorf("after %d lines: %s", passed, strings.Join(got, "\n"))
	}
}

// fields are the fields of a line, which must be well formed.
func fields(t *testing.T, line string) map[string]string {
	t.Helper()
	values := make(map[string]string)
	for line = strings.TrimSuffix(line, "\n"); line != ""; line = strings.TrimPrefix(line, " ") {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("no field: %q", line)
		}
		value, err := strconv.QuotedPrefix(rest)
		if err != nil {
			value, _, _ = strings.Cut(rest, " ")
			if strings.Contains(value, `"`) {
				t.Fatalf("half a quoted value: …%q", value[max(0, len(value)-40):])
			}
			values[key] = value
		} else if values[key], err = strconv.Unquote(value); err != nil {
			t.Fatal(err)
		}
		line = rest[len(value):]
	}
	return values
}

// A long line is cut and is still a line of fields, wherever the cut is.
func TestLongLine(t *testing.T) {
	for name, text := range map[string]string{
		"a word": "x", "a text": "x y ", "quotes": `"`, "backslashes": `\`, "controls": "\x01", "umlauts": "ä ", "invalid": "\xff", "beyond": "\U000e0001",
	} {
		t.Run(name, func(t *testing.T) {
			for shift := range 16 {
				logger, written, _ := bounded()
				logger.Info(strings.Repeat("s", shift) + strings.Repeat(text, 2*maxLine))
				line := written.String()
				if len(line) > maxLine || len(line) < maxLine-32 || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
					t.Fatalf("%d bytes, ending in %q", len(line), line[len(line)-20:])
				}
				if got := fields(t, line); !strings.HasSuffix(got["msg"], "…") || !utf8.ValidString(line) {
					t.Fatalf("the message ends in %q", line[len(line)-20:])
				}
			}
		})
	}
}

// A field is cut as the message is.
func TestLongField(t *testing.T) {
	logger, written, _ := bounded()
	logger.WithError(errors.New(strings.Repeat("a b", maxLine))).WithField("zone", "z").Info("short")
	if got := fields(t, written.String()); got["msg"] != "short" || !strings.HasSuffix(got["error"], "…") || written.Len() > maxLine {
		t.Errorf("%d bytes, message %q", written.Len(), got["msg"])
	}
}

// Many log at once, also past the logger's lock, and the output is slow: nothing is
// mixed up and nothing lost.
func TestConcurrentUse(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	logger := logrus.New()
	logger.SetOutput(write)
	Bound(logger)
	const writers, lines = 8, 50
	var calls sync.WaitGroup
	for range writers {
		calls.Go(func() {
			for range lines {
				logger.Info(strings.Repeat("x y", 100))
				if _, err := fmt.Fprintf(logger.Out, "level=info msg=%q\n", "x y"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		calls.Wait()
		write.Close()
	}()
	got, err := io.ReadAll(read)
	if err != nil || bytes.Count(got, []byte("\n")) != 2*writers*lines {
		t.Errorf("%d lines, %v", bytes.Count(got, []byte("\n")), err)
	}
	for line := range strings.Lines(string(got)) {
		fields(t, line)
	}
}

// An output that fails is the logger's to see.
func TestBrokenOutput(t *testing.T) {
	broken := errors.New("broken")
	w := newWriter(failing{broken}, new(logrus.TextFormatter), new(Tail), time.Now)
	if _, err := w.Write([]byte("line\n")); !errors.Is(err, broken) {
		t.Errorf("Write = %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzCut(f *testing.F) {
	f.Add(`level=info msg="a\"\x01ä`, 8000)
	f.Fuzz(func(t *testing.T, text string, repeat int) {
		if repeat < 0 || repeat > 64<<10 || len(text)*repeat > 64<<10 {
			return
		}
		entry := &logrus.Entry{Message: strings.Repeat(text, repeat)}
		line, err := new(logrus.TextFormatter).Format(entry)
		if err != nil {
			t.Fatal(err)
		}
		got := cut(line)
		if len(got) > maxLine || !bytes.HasSuffix(got, []byte("\n")) {
			t.Errorf("%d bytes became %d", len(line), len(got))
		}
		fields(t, string(got))
	})
}
