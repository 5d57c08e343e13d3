package count

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dirEnv makes this program a process that counts in a directory.
const dirEnv = "MSB_TEST_COUNTS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dirEnv); dir != "" {
		countAlone(dir, os.Args[1])
		return
	}
	os.Exit(m.Run())
}

// countAlone counts when it is told to: a number of times, or for ever. It says after each how
// often it has counted.
func countAlone(dir, times string) {
	most, err := strconv.Atoi(times)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	if err := Open(dir); err != nil {
		fmt.Println(err)
		return
	}
	SetDriver("krun")
	for n := 1; most == 0 || n <= most; n++ {
		AddOverrun()
		AddPhase("guest boot", time.Second)
		fmt.Println(n)
	}
}

// A process is one that counts.
type process struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *bufio.Reader
}

func newProcess(t *testing.T, dir string, times int) process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", strconv.Itoa(times))
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	p := process{cmd, input, bufio.NewReader(output)}
	if said := p.said(t); said != "ready" {
		t.Fatalf("a process says %q", said)
	}
	return p
}

// said is the next line of it, empty at its end.
func (p process) said(t *testing.T) string {
	t.Helper()
	line, err := p.output.ReadString('\n')
	if err == io.EOF {
		return "" // half a line of one that was killed is none
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// counted is the last number that it says.
func (p process) counted(t *testing.T) (n uint64) {
	t.Helper()
	for {
		line := p.said(t)
		if line == "" {
			return n
		}
		var err error
		if n, err = strconv.ParseUint(line, 10, 64); err != nil {
			t.Fatal(line)
		}
	}
}

// Many processes make the file at once and add to it, and some of them are killed while they do.
// All that they have counted is there, to the last, and whoever reads meanwhile sees it grow.
func TestManyProcesses(t *testing.T) {
	const living, killed, times = 8, 4, 2000
	dir := t.TempDir()
	var all []process
	for i := range living + killed {
		n := times
		if i >= living {
			n = 0
		}
		all = append(all, newProcess(t, dir, n))
	}
	for _, p := range all {
		if _, err := p.input.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range all[living:] {
		for range 100 {
			p.said(t) // it is in the middle of it
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	var before uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			counts, err := Read(dir)
			if err != nil || counts.Overruns < before {
				t.Errorf("read meanwhile: %d after %d, %v", counts.Overruns, before, err)
				return
			}
			before = counts.Overruns
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	var least uint64
	for i, p := range all {
		n := p.counted(t)
		if i < living && n != times {
			t.Errorf("a process has counted %d times, not %d", n, times)
		}
		least += n
	}
	close(stop)
	<-stopped
	got := read(t, dir)
	// A process that was killed may not have said its last number, or half of one.
	if got.Overruns < least || got.Overruns > least+2*killed {
		t.Errorf("%d overruns, and %d were told", got.Overruns, least)
	}
	if len(got.Phases) != 1 || got.Phases[0].Count < least || got.Phases[0].Count > got.Overruns {
		t.Errorf("phases %+v, and %d were told", got.Phases, least)
	}
	if more := got.Phases[0].Sum - time.Duration(got.Phases[0].Count)*time.Second; more < 0 || more > killed*time.Second {
		t.Errorf("%d took %v", got.Phases[0].Count, got.Phases[0].Sum)
	}
}
