package command

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	state, empty, broken := t.TempDir(), t.TempDir(), t.TempDir() // each of the latter for /run/msb
	if err := os.Symlink("nowhere", filepath.Join(broken, "counts-1")); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]struct {
		code           int
		stdout, stderr string
	}{
		"metrics --state " + state:                          {0, `msb_sandboxes{state="running"} 0`, ""},
		"metrics --state " + state + " --run " + broken:     {exitFailed, "", "symbolic link"},
		"metrics --state /no":                               {exitFailed, "", "state directory"},
		"metrics a":                                         {exitUsage, "", "1 arguments"},
		"metrics --no-such":                                 {exitUsage, "", "no-such"},
		"metrics serve a":                                   {exitUsage, "", "1 arguments"},
		"metrics serve --no-such":                           {exitUsage, "", "no-such"},
		"metrics serve --listen 0.0.0.0:1":                  {exitUsage, "", "not a loopback address"},
		"metrics serve --listen unix:m":                     {exitUsage, "", "must be absolute"},
		"metrics serve --listen unix:" + state + "/no/such": {exitFailed, "", "no such file"},
		"metrics --help":                                    {0, "serve", ""},
		"metrics serve --help":                              {0, "/run/msb/metrics.sock", ""},
	} {
		command := strings.Fields(args)
		if !strings.Contains(args, "--run") {
			command = append(command, "--run", empty)
		}
		stdout, stderr, code := run(t, command...)
		if code != want.code || !strings.Contains(stdout, want.stdout) || !strings.Contains(stderr, want.stderr) {
			t.Errorf("msbctl %s: code %d, printed %q, %q; want %+v", args, code, stdout, stderr, want)
		}
	}
	// It ends when it is told to, by a signal that main has made the end of its context.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs strings.Builder
	if code := Main(ctx, []string{"msbctl", "metrics", "serve", "--listen", "127.0.0.1:0", "--state", state, "--run", empty}, &out, &errs); code != 0 ||
		!strings.HasPrefix(out.String(), "serving metrics on tcp:127.0.0.1:") {
		t.Errorf("serve: code %d, %q, %q", code, out.String(), errs.String())
	}
	if left, err := filepath.Glob(state + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %q, %v", left, err)
	}
}
