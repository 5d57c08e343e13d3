package docker

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var update = flag.Bool("update", false, "run every case and write the table into docs/docker-table.md")

// document has the table, after its own text.
var document = filepath.Join("..", "..", "docs", "docker-table.md")

// begin is the line after which the table stands.
const begin = "<!-- The table is made by \"make docker-table\". -->\n"

// A trial is one option or command, tried with each runtime.
type trial struct {
	what, script string
	// why is the reason for which the results differ; without one they must not.
	why string
}

// A group is trials that share what the setup makes: a VM takes seconds to boot. Everything
// of it goes after them.
type group struct {
	title, setup string
	// long keeps it from the runs of every day.
	long   bool
	trials []trial
}

// A result is what a script said.
type result struct {
	code   int
	output string
}

func (r result) String() string {
	var shown []string
	if r.output != "" {
		shown = append(shown, "`"+strings.NewReplacer("\n", " ⏎ ", "|", "\\|", "`", "'").Replace(short(r.output))+"`")
	}
	if r.code != 0 || r.output == "" {
		shown = append(shown, fmt.Sprintf("rc %d", r.code))
	}
	return strings.Join(shown, ", ")
}

// short bounds what the table shows of an output.
func short(output string) string {
	const most = 240
	if letters := []rune(output); len(letters) > most {
		return string(letters[:most]) + "…"
	}
	return output
}

// changing is what differs from one run to the next: ids, and what docker says besides.
var changing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile(`(?m)^See 'docker .*\n?`), ""},
	{regexp.MustCompile(`(?m)[ \t\r]+$`), ""},
}

func normal(output string) string {
	for _, change := range changing {
		output = change.pattern.ReplaceAllString(output, change.with)
	}
	return strings.TrimSpace(output)
}

// clean removes all that the trials of a group have made.
const clean = `docker ps -aq | xargs -r docker rm -fv >/dev/null 2>&1
docker network prune -f >/dev/null 2>&1
docker volume prune -af >/dev/null 2>&1
docker images -q made/* | xargs -r docker rmi -f >/dev/null 2>&1
rm -rf made`

// prelude is before each script. made is a directory for it.
const prelude = `mkdir -p made
run() { docker run --runtime "$RUNTIME" "$@"; }
until_true() { for try in $(seq 300); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.2; done; echo "never: $*"; }
image=` + harness.Image + "\n"

// tried runs the trials of a group with a runtime.
func tried(t *testing.T, g group, runtime string) (results []result) {
	t.Helper()
	run := func(script string) result {
		output, code := shell(context.Background(), prelude+script, "RUNTIME="+runtime, "TOOLS="+filepath.Join(host.Output, "tools"))
		return result{code, normal(output)}
	}
	defer func() {
		if left := run(clean); left.code != 0 {
			t.Errorf("cleaning up after %s with %s: %v", g.title, runtime, left)
		}
	}()
	if g.setup != "" {
		if made := run("set -e\n" + g.setup); made.code != 0 {
			t.Fatalf("the container of %s with %s: %v", g.title, runtime, made)
		}
	}
	for _, trial := range g.trials {
		results = append(results, run(trial.script))
	}
	return results
}

// row is a trial's line of the table.
func row(trial trial, with, under result) string {
	ours := "same"
	if with != under {
		ours = under.String()
	}
	return strings.ReplaceAll(fmt.Sprintf("| %s | %s | %s | %s |\n", strings.ReplaceAll(trial.what, "|", "\\|"), with, ours, trial.why), "  ", " ")
}

// TestTable tries everything with runc and with msb, on one daemon. Nothing differs without a
// reason, and no reason is there without a difference. The document has each trial.
func TestTable(t *testing.T) {
	host.NothingLeft(t)
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	introduction, old, found := strings.Cut(string(text), begin)
	if !found {
		t.Fatalf("%s has no place for the table", document)
	}
	var made strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&made, "\n## %s\n\n| | runc | msb | why |\n|---|---|---|---|\n", g.title)
		for _, trial := range g.trials {
			if !*update && (!strings.Contains(old, "| "+strings.ReplaceAll(trial.what, "|", "\\|")+" |") || !strings.Contains(old, trial.why+" |")) {
				t.Errorf("%s does not have %q as it is here: \"make docker-table\" writes it", document, trial.what)
			}
		}
		if g.long && !*update && harness.Many(0, 1) == 0 {
			continue
		}
		t.Run(g.title, func(t *testing.T) {
			with, under := tried(t, g, runc), tried(t, g, msb)
			for i, trial := range g.trials {
				made.WriteString(row(trial, with[i], under[i]))
				switch differs := with[i] != under[i]; {
				case differs && trial.why == "":
					t.Errorf("%s\nrunc: %v\nmsb:  %v", trial.what, with[i], under[i])
				case !differs && trial.why != "":
					t.Errorf("%s: the same with both, %v: %s", trial.what, with[i], trial.why)
				}
			}
		})
	}
	if *update {
		if err := os.WriteFile(document, []byte(introduction+begin+made.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}
