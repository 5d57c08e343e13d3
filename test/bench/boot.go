package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// counting is QEMU with a clock of instructions: one takes a nanosecond of the guest's time,
// and waits take none (qemu(1), -icount). So a time of the guest is the number of its
// instructions, whatever else this machine does. The time stamp counter runs with that clock,
// which the kernel is told. "quiet" is replaced by the words of %[2]s.
const counting = `#!/bin/bash
shopt -s extglob
words=()
for word; do
	word=${word/ quiet / %[2]s }
	words+=("${word/tsc_early_khz=+([0-9])/tsc_early_khz=1000000}")
done
exec %[1]s "${words[@]}" -icount shift=0,sleep=off
`

// A milestone is a line of the guest's log, by which a start is measured.
type milestone struct{ name, line string }

// firstInstruction is what the container writes to the log before anything else.
const firstInstruction = "bench: first instruction of the container"

var milestones = []milestone{
	{"init", " as init process"},
	{"the agent's first word", "msb-agent: "},
	{"the container's first instruction", firstInstruction},
}

// bounds are what the kernel of msb's may take of what libkrunfw's takes.
var bounds = []float64{0.5, 0, 0.7}

// instructions counts what a start costs the guest, for msb's kernel and libkrunfw's, and
// prints the dearest initcalls of each.
func instructions(host *harness.Host) ([]result, error) {
	kernels := []string{"vmlinux", "vmlinux-tsi"}
	times := make([][]time.Duration, len(kernels))
	for i, kernel := range kernels {
		// libkrunfw's has code that msb's is built without, and that is off as before.
		const words = "quiet mitigations=off printk.time=1"
		log, err := guestLog(host, kernel, words)
		if err != nil {
			return nil, err
		}
		for _, milestone := range milestones {
			at, err := timeOf(log, milestone.line)
			if err != nil {
				return nil, err
			}
			times[i] = append(times[i], at)
		}
		if log, err = guestLog(host, kernel, words+" initcall_debug log_buf_len=1M"); err != nil {
			return nil, err
		}
		printInitcalls(kernel, log)
	}
	var results []result
	for i, milestone := range milestones {
		results = append(results, result{
			name: "instructions to " + milestone.name + ", of libkrunfw's kernel", ours: millions(times[0][i]), theirs: millions(times[1][i]),
			figure: float64(times[0][i]) / float64(times[1][i]), bound: bounds[i], atMost: true, unit: " ×",
		})
	}
	return results, nil
}

func millions(d time.Duration) string { return fmt.Sprintf("%.0f M", float64(d)/1e6) }

// guestLog is the kernel's log of a guest that has run one container.
func guestLog(host *harness.Host, kernel, words string) (string, error) {
	dir, err := os.MkdirTemp(host.Dir, "count-")
	if err != nil {
		return "", err
	}
	const file = "vmlinux"
	err = errors.Join(host.KitBut(file, dir), os.Symlink(filepath.Join(host.Output, "lib", "msb", kernel), filepath.Join(dir, file)))
	if err != nil {
		return "", err
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", err
	}
	// The jail shows QEMU the directory above the one that its program is in.
	program, config := filepath.Join(dir, "qemu", "bin", "qemu"), filepath.Join(dir, "config.toml")
	err = errors.Join(os.MkdirAll(filepath.Dir(program), 0o755),
		os.WriteFile(program, fmt.Appendf(nil, counting, qemu, words), 0o755),
		os.WriteFile(config, fmt.Appendf(nil, "driver = \"qemu\"\nkit = %q\n[qemu]\npath = %q\n", dir, program), 0o600))
	if err != nil {
		return "", err
	}
	stdout, stderr, code := host.Ctr("run", "--rm", "--runtime", harness.Runtime, "--runtime-config-path", config, "--privileged",
		harness.Image, filepath.Base(dir), "sh", "-c", "mknod /kmsg c 1 11; echo '"+firstInstruction+"' >/kmsg; dmesg -r")
	if code != 0 {
		return "", fmt.Errorf("counting the instructions of %s: %s", kernel, stderr)
	}
	return stdout, nil
}

// timeOf is the time that the first line of a log with a text has.
func timeOf(log, text string) (time.Duration, error) {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, text) {
			continue
		}
		if found := stamp.FindStringSubmatch(line); found != nil {
			seconds, err := strconv.ParseFloat(found[1], 64)
			return time.Duration(seconds * 1e9), err
		}
	}
	return 0, fmt.Errorf("the guest's log has no line with %q", text)
}

var (
	stamp    = regexp.MustCompile(`\[ *([0-9.]+)\]`)
	initcall = regexp.MustCompile(`initcall (\S+) returned \S+ after (\d+) usecs`)
)

// printInitcalls prints the ten initcalls of a log that took the most.
func printInitcalls(kernel, log string) {
	type call struct {
		name string
		took int
	}
	var calls []call
	sum := 0
	for _, found := range initcall.FindAllStringSubmatch(log, -1) {
		took, err := strconv.Atoi(found[2])
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(found[1], "+")
		calls, sum = append(calls, call{name, took}), sum+took
	}
	slices.SortFunc(calls, func(a, b call) int { return b.took - a.took })
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "THE DEAREST INITCALLS OF %s\tTHOUSAND INSTRUCTIONS\n", kernel)
	for _, call := range calls[:min(10, len(calls))] {
		fmt.Fprintf(w, "%s\t%d\n", call.name, call.took)
	}
	fmt.Fprintf(w, "all %d\t%d\n\n", len(calls), sum)
	w.Flush()
}
