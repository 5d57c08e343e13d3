package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"testing"
)

// All processes below one are its descendants. One that has ended has none.
func TestDescendants(t *testing.T) {
	// A shell with a child that sleeps, and one that has a child. They end with their input.
	shell := exec.Command("sh", "-c", `
		exec 3<&0
		cat <&3 & echo $!
		sh -c 'cat <&3 & echo $!; echo $$; wait' &
		wait`)
	input, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	var want []int
	for range 3 {
		var pid int
		if _, err := fmt.Fscanln(lines, &pid); err != nil {
			t.Error(err)
		}
		want = append(want, pid)
	}
	got, err := Descendants(shell.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the shell has %v, want %v", got, want)
	}
	input.Close()
	_, _ = io.Copy(io.Discard, lines)
	if err := shell.Wait(); err != nil {
		t.Error(err)
	}
	if got, err := Descendants(shell.Process.Pid); err != nil || len(got) > 0 {
		t.Errorf("one that has ended has %v, %v", got, err)
	}
}
