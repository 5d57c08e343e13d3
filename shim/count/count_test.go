package count

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// Every phase that the shim has is counted, and no other is.
func TestPhases(t *testing.T) {
	call := regexp.MustCompile(`trace\.(?:Begin|Since)\([^"\n]*"([^"]+)"`)
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(filepath.Dir(file)) == "trace" {
			continue // its tests and examples
		}
		for _, match := range call.FindAllSubmatch(source, -1) {
			found[string(match[1])] = true
		}
	}
	for name := range found {
		if !IsPhase(name) {
			t.Errorf("the phase %q is not counted", name)
		}
	}
	for name := range phases {
		if !found[name] {
			t.Errorf("%q is no phase", name)
		}
	}
}

func TestRead(t *testing.T) {
	read := func() *Counts {
		t.Helper()
		counts, err := Read(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return counts
	}
	before := read() // the counters are the process's
	AddPhase("start", time.Second)
	AddPhase("start", time.Second)
	AddPhase("start", -time.Second) // a clock that was set back
	AddPhase("none", time.Second)
	AddExit(true, Result_FAILURE)
	AddOverrun()
	counts := read()
	start, old := counts.GetPhases()["start"], before.GetPhases()["start"]
	if len(counts.GetPhases()) != 1 || start.GetCount() != old.GetCount()+3 || start.GetNanoseconds() != old.GetNanoseconds()+uint64(2*time.Second) {
		t.Errorf("the phases are %v, and were %v", counts.GetPhases(), before.GetPhases())
	}
	if len(counts.GetExits()) != 6 || counts.GetOverruns() != before.GetOverruns()+1 {
		t.Errorf("the counters are %v", counts)
	}
	for i, e := range counts.GetExits() {
		if more := e.GetCount() > before.GetExits()[i].GetCount(); more != (e.GetExec() && e.GetResult() == Result_FAILURE) {
			t.Errorf("an exit that was not: %v", e)
		}
	}
}
