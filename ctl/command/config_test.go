package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
)

// run runs msbctl, and returns what it printed and its exit code.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errors bytes.Buffer
	code = Main(t.Context(), append([]string{"msbctl"}, args...), &out, &errors)
	return out.String(), errors.String(), code
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"", 0, "COMMANDS:", ""},
		{"--help", 0, "Exit codes:", ""},
		{"config", 0, "validate", ""},
		{"config validate --help", 0, "Exit codes:", ""},
		{"confg", exitUsage, "", "there is no command msbctl confg, did you mean config?"},
		{"config shw", exitUsage, "", "did you mean show?"},
		{"config show --jsn", exitUsage, "", "-jsn"},
		{"--jsn", exitUsage, "", "-jsn"},
		{"config show a b", exitUsage, "", "it is msbctl config show [FILE]"},
		{"config default x", exitUsage, "", "1 arguments"},
		{"bench", exitUsage, "", "it is msbctl bench IMAGE [COMMAND...]"},
		{"bench --rounds 0 image", exitUsage, "", "it is 1 to 1000"},
		{"completion bash", 0, "msbctl", ""},
		{"completion nosh", exitUsage, "", "nosh"},
		{"completion --json", exitUsage, "", "json"},
		{"config show /no/file", exitFailed, "", "/no/file"},
		{"config validate /no/file", exitFailed, "/no/file: it cannot be read: no such file", ""},
	} {
		stdout, stderr, code := run(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) ||
			(c.stdout == "") != (stdout == "") || (c.stderr == "") != (stderr == "") {
			t.Errorf("msbctl %s: code %d, printed %q, %q; want %+v", c.args, code, stdout, stderr, c)
		}
	}
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := write("good.toml", "\n[vm]\ncpus = 2\n"), write("bad.toml", "drivr = 'qemu'\n[vm]\ncpus = 0\n")

	if stdout, _, code := run(t, "config", "validate", good); code != 0 || stdout != good+": right\n" {
		t.Errorf("validate: code %d, %q", code, stdout)
	}
	stdout, _, code := run(t, "config", "validate", bad)
	if want := bad + ":1: unknown setting drivr, did you mean driver?\n" + bad + ":3: vm.cpus is 0 and must be at least 1\n"; code != exitFailed || stdout != want {
		t.Errorf("validate: code %d, %q, want %q", code, stdout, want)
	}
	stdout, _, code = run(t, "config", "validate", "--json", bad)
	var answer struct {
		Files    []string
		Problems []struct{ Place, Text string }
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || code != exitFailed || len(answer.Problems) != 2 || answer.Problems[1].Place != bad+":3" {
		t.Errorf("validate --json: code %d, %v, %q", code, err, stdout)
	}
	if stdout, _, code = run(t, "config", "show", good); code != 0 || !strings.Contains(stdout, good+":3") || !strings.Contains(stdout, "default") {
		t.Errorf("show: code %d, %q", code, stdout)
	}
	var settings []struct{ Key, Value, Origin string }
	stdout, _, code = run(t, "config", "show", good, "--json")
	if err := json.Unmarshal([]byte(stdout), &settings); err != nil || code != 0 || settings[0].Key != "driver" {
		t.Errorf("show --json: code %d, %v, %q", code, err, stdout)
	}
	if _, stderr, code := run(t, "config", "show", bad); code != exitFailed || !strings.Contains(stderr, "drivr") || !strings.Contains(stderr, "vm.cpus") {
		t.Errorf("show of a wrong file: code %d, %q", code, stderr)
	}
	// What default prints, validate takes.
	stdout, _, _ = run(t, "config", "default")
	if _, _, code := run(t, "config", "validate", write("default.toml", stdout)); code != 0 {
		t.Errorf("the default is wrong:\n%s", stdout)
	}
}

// What a file has is not acted upon by the terminal.
func TestConfigVisible(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c\x1b[1m.toml")
	for content, code := range map[string]int{"\"\\u001b[31mx\" = 1": exitFailed, "": 0} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		if got := Main(t.Context(), []string{"msbctl", "config", "validate", path}, &out, &errs); got != code || strings.Contains(out.String()+errs.String(), "\x1b") || !strings.Contains(out.String(), `\x1b[1m`) {
			t.Errorf("code %d, %q, %q", got, &out, &errs)
		}
	}
	out := new(bytes.Buffer)
	printResults(out, painterOf(out), []check.Result{{State: check.Missing, Found: "a\x1b[31m", Do: "b\x1b[31m"}})
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out)
	}
}
