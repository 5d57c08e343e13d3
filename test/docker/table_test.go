package docker

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// changing is what differs from one run to the next: ids, and what docker says and draws
// besides.
var changing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]"), ""}, // of a terminal
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
docker images -q 'made/*' | xargs -r docker rmi -f >/dev/null 2>&1
docker image prune -f >/dev/null 2>&1
rm -rf made`

// prelude is before each script. made is a directory for it. What never becomes true ends with
// the patience for a script.
const prelude = `mkdir -p made
run() { docker run --runtime "$RUNTIME" "$@"; }
until_true() { until "$@" >/dev/null 2>&1; do sleep 0.2; done; }
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

// documented tells whether a table has a trial with its reason.
func documented(table string, trial trial) bool {
	return slices.ContainsFunc(strings.Split(table, "\n"), func(line string) bool {
		cells := strings.Split(strings.TrimSuffix(line, " |"), " |")
		return strings.HasPrefix(line, "| "+trial.what+" |") && strings.TrimSpace(cells[len(cells)-1]) == trial.why
	})
}

// row is a trial's line of the table.
func row(trial trial, with, under result) string {
	ours := "same"
	if with != under {
		ours = under.String()
	}
	return strings.ReplaceAll(fmt.Sprintf("| %s | %v | %s | %s |\n", trial.what, with, ours, trial.why), "|  |", "| |")
}

// TestTable tries everything with runc and with msb, on one daemon. Nothing differs without a
// reason, and no reason is there without a difference. The document has each trial; to update
// it writes the groups in which that is so.
func TestTable(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	introduction, old, found := strings.Cut(string(text), begin)
	if !found {
		t.Fatalf("%s has no place for the table", document)
	}
	if *update {
		defer func() {
			if err := os.WriteFile(document, []byte(introduction+begin+old), 0o644); err != nil {
				t.Error(err)
			}
		}()
	}
	for _, g := range groups {
		if g.long && !*update && harness.Many(0, 1) == 0 {
			continue
		}
		t.Run(g.title, func(t *testing.T) {
			rows := compare(t, g)
			if *update && !t.Failed() {
				old = replaced(old, g.title, rows)
			}
		})
	}
	for _, g := range groups {
		for _, trial := range g.trials {
			if !documented(old, trial) {
				t.Errorf("%s does not have %s as it is here: \"make docker-table\" writes it", document, trial.what)
			}
		}
	}
}

// compare tries a group with both runtimes, and returns its part of the table.
func compare(t *testing.T, g group) string {
	t.Helper()
	nothingLeft(t)
	rows := "| | runc | msb | why |\n|---|---|---|---|\n"
	with, under := tried(t, g, runc), tried(t, g, msb)
	for i, trial := range g.trials {
		rows += row(trial, with[i], under[i])
		switch differs := with[i] != under[i]; {
		case differs && trial.why == "":
			t.Errorf("%s\nrunc: %v\nmsb:  %v", trial.what, with[i], under[i])
		case !differs && trial.why != "":
			t.Errorf("%s: the same with both, %v: %s", trial.what, with[i], trial.why)
		}
	}
	return rows
}

// replaced is the text with another part under a title, or with it at the end.
func replaced(text, title, rows string) string {
	heading := "\n## " + title + "\n\n"
	before, rest, found := strings.Cut(text, heading)
	after := ""
	if found {
		if next := strings.Index(rest, "\n## "); next >= 0 {
			after = rest[next:]
		}
	}
	return before + heading + rows + after
}

// The table itself: what stands in a line, and what is one and the same.
func TestRow(t *testing.T) {
	same := trial{what: "`exec`"}
	differs := trial{what: "`top`", why: "the guest's"}
	id := strings.Repeat("0a", 32)
	for _, test := range []struct {
		trial       trial
		with, under result
		want        string
	}{
		{same, result{0, "a\nb"}, result{0, "a\nb"}, "| `exec` | `a ⏎ b` | same | |\n"},
		{same, result{7, ""}, result{7, ""}, "| `exec` | rc 7 | same | |\n"},
		{same, result{0, ""}, result{124, "x | y"}, "| `exec` | rc 0 | `x \\| y`, rc 124 | |\n"},
		{differs, result{0, normal("pid " + id + "\nSee 'docker run'.\n")}, result{1, "none"}, "| `top` | `pid ID` | `none`, rc 1 | the guest's |\n"},
	} {
		line := row(test.trial, test.with, test.under)
		if line != test.want {
			t.Errorf("%q, want %q", line, test.want)
		}
		if !documented(line, test.trial) || documented(line, trial{what: test.trial.what, why: "another"}) || documented(line, trial{what: "`logs`", why: test.trial.why}) {
			t.Errorf("what is documented by %q", line)
		}
	}
}

// Each line has a name of its own.
func TestTrials(t *testing.T) {
	seen := make(map[string]bool)
	for _, g := range groups {
		for _, trial := range g.trials {
			if seen[trial.what] || strings.Contains(trial.what+trial.why, "|") {
				t.Errorf("%q is there twice, or would break the table", trial.what)
			}
			seen[trial.what] = true
		}
	}
	const least = 60
	if len(seen) < least {
		t.Errorf("%d trials, and the table has at least %d", len(seen), least)
	}
}
