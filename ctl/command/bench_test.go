package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/atomicfile"

	"github.com/msb-runtime/containerd-shim-msb/ctl/bench"
	"github.com/msb-runtime/containerd-shim-msb/internal/plot"
)

func TestBenched(t *testing.T) {
	ours := []time.Duration{3 * time.Second, time.Second, 2 * time.Second}
	theirs := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond}
	b := benched{Image: "image", Rounds: 3, Runtimes: []benchedRuntime{
		{"ours", figuresOf(ours, ours), figuresOf(theirs, theirs)},
		{"theirs", figuresOf(theirs, ours), figuresOf(ours, theirs)},
	}, FileRounds: 3, LeftOut: []string{"tar x of them: the image has no tar"}}
	for _, place := range []bench.Place{bench.InRoot, bench.InMount} {
		b.Files = append(b.Files, benchedJob{"making files", place, []benchedFiles{{"ours", figuresOf(ours, ours)}, {"theirs", figuresOf(theirs, ours)}}})
	}
	var out bytes.Buffer
	if err := b.print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `3 of each runtime, in turns: image

WHAT   RUNTIME  P50      P95      × P50  × P95
start  ours     2000 ms  3000 ms  -      -
start  theirs   20 ms    30 ms    100    100
end    ours     20 ms    30 ms    -      -
end    theirs   2000 ms  3000 ms  0.01   0.01

start                   10 ms                                                3000 ms
ours                                                                    █      █   █
theirs                  █      █   █

end                     10 ms                                                3000 ms
ours                    █      █   █
theirs                                                                  █      █   █

files, each job 3 times: medians

WHAT          WHERE              ours     theirs  ×
making files  root file system   2000 ms  20 ms   100
making files  mounted directory  2000 ms  20 ms   100
left out: tar x of them: the image has no tar
`
	if got := out.String(); got != want {
		t.Errorf("printed:\n%s\nwant:\n%s", got, want)
	}
	wantRows := []plot.Row{
		{Name: "start", Bars: []plot.Bar{{Series: 2, Multiple: 100}}},
		{Name: "end", Bars: []plot.Bar{{Series: 2, Multiple: 0.01}}},
		{Name: "making files", Bars: []plot.Bar{{Series: 0, Multiple: 100}, {Series: 1, Multiple: 100}}},
	}
	if bars := b.plot(); !reflect.DeepEqual(bars.Rows, wantRows) || len(bars.Series) != 3 {
		t.Errorf("drawn: %+v", bars)
	}
	var told struct {
		Files []struct {
			Job, Place string
			Runtimes   []struct {
				Runtime string
				Seconds []float64
				Ratio   float64 `json:"ratio_p50"`
			}
		}
		LeftOut []string `json:"left_out"`
	}
	out.Reset()
	if err := printJSON(&out, b); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &told); err != nil || len(told.Files) != 2 || len(told.LeftOut) != 1 || len(told.Files[1].Runtimes[1].Seconds) != 3 || told.Files[1].Runtimes[1].Ratio != 100 {
		t.Errorf("%v, %s", err, out.String())
	}
}

// A picture is there whole or not at all, and where it cannot be is told before.
func TestCreateSVG(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bench.svg")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, refused := range []string{dir, os.DevNull, filepath.Join(dir, "none", "bench.svg"), filepath.Join(path, "bench.svg")} {
		if _, err := createSVG(refused); err == nil || !strings.Contains(err.Error(), refused) {
			t.Errorf("%s: %v", refused, err)
		}
	}
	expect := func(when, want string) {
		t.Helper()
		content, err := os.ReadFile(path)
		entries, listErr := os.ReadDir(dir)
		if err = errors.Join(err, listErr); err != nil || string(content) != want || len(entries) != 1 {
			t.Errorf("%s: %q, %v, %v", when, content, entries, err)
		}
	}
	for when, end := range map[string]func(atomicfile.File) error{"cancelled": atomicfile.File.Cancel, "written": atomicfile.File.Close} {
		if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := createSVG(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.Write([]byte("after"))
		if err := errors.Join(err, end(file), file.Cancel()); err != nil {
			t.Error(err)
		}
		expect(when, map[string]string{"cancelled": "before", "written": "after"}[when])
	}
}

// What cannot be measured is refused as a wrong command line.
func TestBenchRefused(t *testing.T) {
	for want, args := range map[string][]string{
		"no image is given":        {},
		"--rounds is 0":            {"--rounds", "0", "image"},
		"--file-rounds is 1001":    {"--file-rounds", "1001", "image"},
		"--files is -1":            {"--files", "-1", "image"},
		"name that with --against": {"--svg", "bench.svg", "--against", "", "image"},
	} {
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), append([]string{"msbctl", "bench"}, args...), &stdout, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), want) {
			t.Errorf("%q: code %d, %q", args, code, stderr.String())
		}
	}
}
