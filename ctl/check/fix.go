package check

import (
	"context"
	"os/exec"
	"slices"
	"strings"
)

// A Remedy is what msbctl can do about a line. It loads modules of the kernel and does nothing
// else: that holds until the next boot, and modprobe -r takes it back.
type Remedy struct {
	Modules []string `json:"modules"`
}

func load(modules ...string) *Remedy { return &Remedy{modules} }

// with is a line whose remedy is all that there is to do.
func (r Result) with(remedy *Remedy) Result {
	r.Do, r.Remedy = remedy.String(), remedy
	return r
}

// command is the program and its arguments.
func (r Remedy) command() []string {
	if len(r.Modules) == 1 {
		return append([]string{"modprobe"}, r.Modules...)
	}
	return append([]string{"modprobe", "-a"}, r.Modules...)
}

// String is the line to type.
func (r Remedy) String() string { return strings.Join(r.command(), " ") }

// Apply does it.
func (r Remedy) Apply(ctx context.Context) error {
	command := r.command()
	program, err := exec.LookPath(command[0])
	if err != nil {
		program = "/sbin/modprobe" // who became root by su may have no such directory in PATH
	}
	_, err = output(ctx, program, command[1:]...)
	return err
}

// A Fix is a remedy, and the names of the lines that ask for it.
type Fix struct {
	For    []string
	Remedy Remedy
}

// Fixes are what msbctl can do about results, each once and in their order, and the lines that it
// leaves to the operator.
func Fixes(results []Result) (fixes []Fix, left []Result) {
	for _, r := range results {
		switch {
		case r.State == OK:
			continue
		case r.Remedy == nil:
			left = append(left, r)
			continue
		}
		i := slices.IndexFunc(fixes, func(f Fix) bool { return slices.Equal(f.Remedy.Modules, r.Remedy.Modules) })
		if i < 0 {
			fixes, i = append(fixes, Fix{Remedy: *r.Remedy}), len(fixes)
		}
		fixes[i].For = append(fixes[i].For, r.Name)
	}
	return fixes, left
}
