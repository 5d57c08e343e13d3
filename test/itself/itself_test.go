package itself

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A judged is a test that notes what is said of it.
type judged struct {
	testing.TB
	cleanups []func()
	said     string
}

func (j *judged) Helper()          {}
func (j *judged) Cleanup(f func()) { j.cleanups = append(j.cleanups, f) }

func (j *judged) Errorf(format string, args ...any) { j.said = fmt.Sprintf(format, args...) }
func (j *judged) Fatalf(format string, args ...any) { j.said = fmt.Sprintf(format, args...) }

// What does not come fails a test, and what comes late does not.
func TestAwait(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	j, looks := new(judged), 0
	Await(j, "the third look", func() bool { looks++; return looks == 3 })
	if looks != 3 || j.said != "" {
		t.Errorf("after %d looks: %q", looks, j.said)
	}
	patience = time.Millisecond
	if Await(j, "the impossible", func() bool { return false }); !strings.HasPrefix(j.said, "waited in vain for the impossible\n") || !strings.Contains(j.said, "TestAwait") {
		t.Errorf("it says %q", j.said)
	}
}

// Goroutines that are left fail their test, and those that end late do not.
func TestNothingLeft(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	j := new(judged)
	NothingLeft(j)
	end := make(chan struct{})
	for range 10 { // one that others have left may end meanwhile
		go func() { <-end }()
	}
	patience = time.Millisecond
	if j.cleanups[0](); !strings.Contains(j.said, "goroutines before, and ") {
		t.Errorf("of what is left it says %q", j.said)
	}
	patience, j.said = time.Minute, ""
	time.AfterFunc(time.Millisecond, func() { close(end) })
	if j.cleanups[0](); j.said != "" {
		t.Errorf("of what ends it says %q", j.said)
	}
}

// What is kept is in use, and what is not is none.
func TestMemory(t *testing.T) {
	const size = 16 << 20
	before := Memory()
	kept := make([]byte, size)
	with := Memory() - before
	runtime.KeepAlive(kept)
	kept = nil
	if without := Memory() - before; with < size/2 || without > size/2 {
		t.Errorf("with %d bytes more it is %d more, and then %d", size, with, without)
	}
}

func TestConnection(t *testing.T) {
	one, other := Connection(t)
	defer other.Close()
	if _, err := one.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	one.Close()
	if text, err := io.ReadAll(other); string(text) != "hello" || err != nil {
		t.Errorf("it reads %q, %v", text, err)
	}
}

func TestMountsBelow(t *testing.T) {
	if all := MountsBelow(t, "/proc"); len(all) == 0 || all[0] != "/proc" {
		t.Errorf("at /proc there are %v", all)
	}
	if none := MountsBelow(t, t.TempDir()); len(none) > 0 {
		t.Errorf("below an empty directory there are %v", none)
	}
}
