package contract

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/document"
)

var update = flag.Bool("update", false, "write the table into docs/file-mounts.md")

// place is the table's.
var place = document.Place{
	Path:   filepath.Join("..", "..", "docs", "file-mounts.md"),
	Begin:  "<!-- The table is made by \"make test\"; \"make contract\" writes it. -->\n",
	End:    "<!-- end of the table -->\n",
	Writes: "make contract",
}

// Every line was shown by the run of tests that has just been, and the document has
// the same table.
func TestContract(t *testing.T) {
	dir := os.Getenv("MSB_RESULTS")
	if dir == "" {
		t.Fatal("MSB_RESULTS names no directory with results of tests: run \"make test\"")
	}
	read := func(name string, files ...string) run {
		var output []byte
		for _, file := range files {
			more, err := os.ReadFile(filepath.Join(dir, file+".log"))
			if err != nil {
				t.Fatal(err)
			}
			output = append(output, more...)
		}
		return run{name, verdicts(string(output))}
	}
	text, missing := table(lines, read("host", "host"), read("qemu", "qemu", "pods"), read("krun", "krun"))
	t.Log("\n" + text)
	for _, what := range missing {
		t.Error(what)
	}
	place.Holds(t, text, *update)
}

// The table itself: what fails, what is missing, and what is open.
func TestTable(t *testing.T) {
	lines := []line{
		{name: "FM01", meaning: "both"},
		{name: "FM02", meaning: "host"},
		{name: "FM03", meaning: "one driver"},
		{name: "FM04", meaning: "fails"},
		{name: "FM05", meaning: "skipped"},
		{name: "FM06", meaning: "pods", open: "no pods"},
		{name: "FM07", meaning: "one driver is enough", by: "guest"},
		{name: "FM08", meaning: "none is not", by: "guest"},
	}
	host := run{"host", verdicts("--- PASS: TestFM02 (0.00s)\nok\n")}
	qemu := run{"qemu", verdicts("--- FAIL: TestX (1.00s)\n    --- PASS: TestX/FM01_FM03_a (0.00s)\n    --- PASS: TestX/FM04_a (0.00s)\n    --- FAIL: TestX/FM04_b (0.00s)\n    --- PASS: TestX/FM07 (0.00s)\n")}
	krun := run{"krun", verdicts("    --- PASS: TestX/FM01_a (0.00s)\r\n    --- PASS: TestX/FM04_a (0.00s)\n    --- SKIP: TestX/FM05_a (0.00s)\n")}
	text, missing := table(lines, host, qemu, krun)
	want := `| | | host | qemu | krun |
|---|---|---|---|---|
| FM-01 | both | | pass | pass |
| FM-02 | host | pass | | |
| FM-03 | one driver | | pass | |
| FM-04 | fails | | FAIL | pass |
| FM-05 | skipped | | | FAIL |
| FM-06 | pods | no pods | no pods | no pods |
| FM-07 | one driver is enough | | pass | guest |
| FM-08 | none is not | | guest | guest |
`
	if text != want {
		t.Errorf("the table is\n%s, want\n%s", text, want)
	}
	if got := strings.Join(missing, "; "); got != "FM03: no test has shown it; FM04 on qemu; FM05 on krun; FM05: no test has shown it; FM08: no test has shown it" {
		t.Errorf("missing: %s", got)
	}
}
