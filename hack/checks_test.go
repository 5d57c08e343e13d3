package hack

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// checkLines are the checks of a script, and what it defines in a line for them.
var checkLines = regexp.MustCompile(`(?m)^(ok |[a-z_]+\(\) \{.*\}$).*`)

// unreachable is what is before the checks of test-systemd where nothing can be asked of its host. What
// earlier checks have noted is there.
const unreachable = `set -uo pipefail
work=$1 host=$$ name=package before=1
source packages/systemd-checks
eval "$(sed -n '/^none() {$/,/^}$/p' packages/checks)"
for id in one two lost last; do echo 1 >"$work/$id.processes"; done
echo file >"$work/before"
init=1
inside() { return %d; }
sleep() { :; }
patiently() { "$@"; }
ok() { if "${@:2}" >/dev/null 2>&1; then echo "green: $1"; else echo "red: $1"; fi; }
`

// A check that cannot be made is red, also where what is not there would be right.
func TestChecksThatCannotBeMade(t *testing.T) {
	text, err := os.ReadFile("packages/test-systemd")
	if err != nil {
		t.Fatal(err)
	}
	checks := strings.Join(checkLines.FindAllString(string(text), -1), "\n")
	for _, status := range []int{1, 2, 127} {
		cmd := exec.Command("bash", "-c", fmt.Sprintf(unreachable, status)+checks, "bash", t.TempDir())
		printed, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("status %d: %v\n%s", status, err, printed)
		}
		if made, want := strings.Count(string(printed), "red: "), strings.Count("\n"+checks, "\nok "); made != want || want == 0 {
			t.Errorf("status %d: of %d checks %d are red:\n%s", status, want, made, printed)
		}
	}
}

// none is green when a command has succeeded and has nothing to say.
func TestNone(t *testing.T) {
	for command, green := range map[string]bool{
		"true": true, "false": false, "echo": true, "echo x": false, "eval 'echo x; false'": false, "eval 'false | true'": false, "no-such-command": false,
	} {
		err := exec.Command("bash", "-c", `set -euo pipefail; eval "$(sed -n '/^none() {$/,/^}$/p' packages/checks)"; if none `+command+`; then exit 0; fi; exit 1`).Run()
		if (err == nil) != green {
			t.Errorf("none %s: %v", command, err)
		}
	}
}
