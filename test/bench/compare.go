package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// compared are this build and what it is compared with, all under the same containerd: another
// build, or this one's shim with another kit, which differs from its own in one part.
func compared(host *harness.Host) (both []*way, err error) {
	if *otherBuild != "" {
		this, err := buildOptions(host.Output, host.Config)
		if err != nil {
			return nil, err
		}
		other, err := buildOptions(*otherBuild, host.Config)
		return []*way{{name: "this build", options: this}, {name: "the other", options: other}}, err
	}
	config, err := os.ReadFile(host.Config)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(host.Dir, "otherkit.toml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "kit = %q\n%s", *otherKit, config), 0o600); err != nil {
		return nil, err
	}
	options := []string{"--runtime", harness.Runtime, "--runtime-config-path"}
	return []*way{{name: "this kit", options: append(options[:3:3], host.Config)}, {name: "the other", options: append(options[:3:3], file)}}, nil
}

// buildOptions are ctr's for the shim of a build in its output directory. The shim finds its kit
// beside it.
func buildOptions(output, config string) ([]string, error) {
	shim, err := filepath.Abs(filepath.Join(output, "bin", "containerd-shim-msb-v2"))
	if err != nil {
		return nil, err
	}
	for _, file := range []string{shim, filepath.Join(output, "lib", "msb", "guest.erofs")} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("%s is no build's output: run make build there: %w", output, err)
		}
	}
	return []string{"--runtime", shim, "--runtime-config-path", config}, nil
}

// compare measures starts, and execs, of this build and of what it is compared with, in turns;
// execs alone where they are asked for.
func compare(host *harness.Host) ([]result, error) {
	both, err := compared(host)
	if err != nil {
		return nil, err
	}
	if *only == "exec" {
		return compareExecs(host, both)
	}
	if err := inTurns(both, func(w *way, round int) (time.Duration, error) {
		before := len(host.Log())
		took, err := runTrue(host, fmt.Sprintf("compared%d", round), w.options...)
		w.phases.add(host.Log()[before:])
		return took, err
	}); err != nil {
		return nil, err
	}
	const starts = "ctr run --rm … true"
	printPercentiles(fmt.Sprintf("%s, %d of each, in turns", starts, *startRounds), both...)
	printColumns([]column{{both[0].name, both[0].phases}, {both[1].name, both[1].phases}})
	results := []result{both[0].against(both[1], starts, 0)}
	more, err := compareExecs(host, both)
	return append(results, more...), err
}

// compareExecs compares execs in a container of each.
func compareExecs(host *harness.Host, both []*way) (_ []result, err error) {
	containers := map[*way]string{both[0]: "this", both[1]: "other"}
	defer func() {
		for _, id := range containers {
			_, _, _ = host.Ctr("task", "rm", "--force", id)
			if _, stderr, code := host.Ctr("container", "rm", id); code != 0 {
				err = errors.Join(err, errors.New(stderr))
			}
		}
	}()
	for w, id := range containers {
		w.times = nil
		run := append(append([]string{"run", "-d"}, w.options...), harness.Image, id)
		if _, stderr, code := host.Ctr(append(run, harness.Sleeper...)...); code != 0 {
			return nil, errors.New(stderr)
		}
	}
	const execs = "ctr task exec … true"
	if err := inTurns(both, func(w *way, round int) (time.Duration, error) {
		begin := time.Now()
		if _, stderr, code := host.Ctr("task", "exec", "--exec-id", fmt.Sprintf("x%d", round), containers[w], "true"); code != 0 {
			return 0, fmt.Errorf("%s: %s", execs, stderr)
		}
		return time.Since(begin), nil
	}); err != nil {
		return nil, err
	}
	printPercentiles(fmt.Sprintf("%s, %d of each, in turns", execs, *startRounds), both...)
	return []result{both[0].against(both[1], execs, 0)}, nil
}

// inTurns measures ways of doing something, of which each is the first of a round as often as
// the others.
func inTurns(ways []*way, measure func(w *way, round int) (time.Duration, error)) error {
	for round := range *startRounds {
		for i := range ways {
			w := ways[(round+i)%len(ways)]
			took, err := measure(w, round)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			w.times = append(w.times, took)
		}
	}
	return nil
}
