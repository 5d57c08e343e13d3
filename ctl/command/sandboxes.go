package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/docker/go-units"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

// shimPatience is how long a shim may take to answer, which answers from memory.
const shimPatience = time.Second

func lsCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list the sandboxes of this host",
		Description: `A sandbox is a VM with its containers. RESIDENT is the memory of the VMM's process on the host,
MEMORY what the guest has, CONTAINERS how many run of how many there are. The states: starting, without a VMM yet; running; stopped, when the VM
has ended and its containers are yet to be deleted; hung, when the shim does not answer within a
second; lost, when there is no shim; forgotten, when containerd does not know it any more.`,
		Flags: []cli.Flag{stateFlag(), namespaceFlag(), jsonFlag()}, Action: lsAction,
	}
}

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "tell what is known of a sandbox", ArgsUsage: "ID",
		Description: "ID is that of a container or of a pod's sandbox, or the beginning of one.",
		Flags:       []cli.Flag{stateFlag(), namespaceFlag(), jsonFlag()}, Action: inspectAction,
	}
}

func stateFlag() cli.Flag {
	return &cli.StringFlag{Name: "state", Usage: "containerd's state `DIRECTORY`", Value: defaults.DefaultStateDir}
}

func namespaceFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "only of this `NAMESPACE` of containerd; k8s.io has pods, moby what Docker runs"}
}

// find is the host that a command is about, and its sandboxes.
func find(ctx context.Context, c *cli.Command) (survey.Host, []survey.Sandbox, error) {
	host := survey.Host{State: c.String("state"), Proc: "/proc", Patience: shimPatience}
	if os.Geteuid() != 0 {
		return host, nil, errNotRoot
	}
	all, err := host.Find(ctx)
	return host, all, err
}

func lsAction(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	_, all, err := find(ctx, c)
	if err != nil {
		return err
	}
	chosen := []survey.Sandbox{}
	for _, s := range all {
		if name := c.String("namespace"); name == "" || name == s.Namespace {
			chosen = append(chosen, s)
		}
	}
	if c.Bool("json") {
		return printJSON(c.Root().Writer, chosen)
	}
	if err := list(c.Root().Writer, chosen, time.Now()); err != nil {
		return err
	}
	tellForgotten(c.Root().ErrWriter, chosen)
	return nil
}

// tellForgotten tells how the sandboxes end that containerd has forgotten.
func tellForgotten(errs io.Writer, sandboxes []survey.Sandbox) {
	for _, s := range sandboxes {
		if s.Forgotten {
			fmt.Fprintf(errs, "msbctl: containerd has forgotten %s/%s: %s\n", s.Namespace, s.ID, howToEnd(s))
		}
	}
}

// howToEnd is how a sandbox ends that containerd has forgotten.
func howToEnd(s survey.Sandbox) string {
	signal := "TERM"
	if s.State == survey.Hung && s.Address != "" { // it listens, and does not answer: one that does not may be ending
		signal = "KILL"
	}
	return fmt.Sprintf("kill -%s %d ends its shim, and the VM with it", signal, pid(s.Shim))
}

// state is what a sandbox is in, in a word.
func state(s survey.Sandbox) string {
	if s.Forgotten {
		return "forgotten"
	}
	return string(s.State)
}

func list(out io.Writer, sandboxes []survey.Sandbox, now time.Time) error {
	table := columns(out)
	fmt.Fprintln(table, "NAMESPACE\tID\tSTATE\tDRIVER\tCPUS\tMEMORY\tRESIDENT\tAGE\tVMM\tCONTAINERS")
	for _, s := range sandboxes {
		fmt.Fprintln(table, strings.Join([]string{
			s.Namespace, short(s.ID), state(s), orDash(s.Driver), number(s.CPUs), size(s.Memory),
			size(resident(s.VMM)), age(s, now), number(pid(s.VMM)), containers(s),
		}, "\t"))
	}
	return table.Flush()
}

// containers are how many run, of how many there are.
func containers(s survey.Sandbox) string {
	running := 0
	for _, c := range s.Containers {
		if c.State == "running" {
			running++
		}
	}
	if s.State == survey.Hung || s.State == survey.Lost {
		return fmt.Sprintf("?/%d", len(s.Containers))
	}
	return fmt.Sprintf("%d/%d", running, len(s.Containers))
}

// longID is an id as Kubernetes and Docker make them.
var longID = regexp.MustCompile("^[0-9a-f]{64}$")

// short is enough of an id for inspect.
func short(id string) string {
	const enough = 12
	if longID.MatchString(id) {
		return id[:enough]
	}
	return id
}

func pid(p *survey.Process) int {
	if p == nil {
		return 0
	}
	return p.Pid
}

func resident(p *survey.Process) int64 {
	if p == nil {
		return 0
	}
	return p.Resident
}

// number and size are fields of a table; what is 0 is not known, or not there.
func number(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func size(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return units.BytesSize(float64(bytes))
}

func age(s survey.Sandbox, now time.Time) string { return since(s.Started, now) }

// since is how long ago something began, if it did.
func since(began *time.Time, now time.Time) string {
	if began == nil {
		return "-"
	}
	a := max(0, now.Sub(*began))
	const day = 24 * time.Hour
	switch {
	case a < time.Hour:
		return a.Round(time.Second).String()
	case a < day:
		return fmt.Sprintf("%dh%dm", a/time.Hour, a%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", a/day, a%day/time.Hour)
}

func inspectAction(ctx context.Context, c *cli.Command) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	host, all, err := find(ctx, c)
	if err != nil {
		return err
	}
	s, err := survey.Pick(all, c.String("namespace"), args[0])
	if err != nil {
		return err
	}
	i := host.Inspect(s)
	if c.Bool("json") {
		return printJSON(c.Root().Writer, i)
	}
	return printInspection(c.Root().Writer, i, time.Now())
}

// printInspection prints names that others have chosen: who made a mounted directory its name, and the
// VMM its process's (prctl(2), PR_SET_NAME).
func printInspection(out io.Writer, i survey.Inspection, now time.Time) error {
	table := columns(out)
	inState := string(i.State)
	if i.Forgotten {
		inState += ", and containerd has forgotten it: " + howToEnd(i.Sandbox)
	}
	for _, line := range [][2]string{
		{"id", i.ID},
		{"namespace", i.Namespace},
		{"state", inState},
		{"driver", orDash(i.Driver)},
		{"processors", number(i.CPUs)},
		{"memory", fmt.Sprintf("%s, of which the VMM has %s of the host", size(i.Memory), size(resident(i.VMM)))},
		{"age", age(i.Sandbox, now)},
		{"VMM", number(pid(i.VMM))},
		{"shim", number(pid(i.Shim))},
		{"control group", orDash(i.Cgroup)},
		{"network", orDash(i.Network)},
		{"bundle", i.Bundle},
		{"shim's socket", orDash(i.Address)},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], visible(line[1]))
	}
	fmt.Fprintln(table, "\nCONTAINER\tSTATE")
	for _, c := range i.Containers {
		fmt.Fprintf(table, "%s\t%s\n", c.ID, orDash(c.State))
	}
	fmt.Fprintln(table, "\nPROCESS\tPID\tRESIDENT")
	for _, p := range i.Processes {
		fmt.Fprintf(table, "%s\t%d\t%s\n", visible(p.Name), p.Pid, size(p.Resident))
	}
	fmt.Fprintln(table, "\nSHARE\tKIND\tACCESS\tON\tPATH THERE")
	for _, s := range i.Shares {
		access := "read-write"
		if s.ReadOnly {
			access = "read-only"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", short(s.Name), s.Kind, access, s.FileSystem, visible(s.Path))
	}
	return table.Flush()
}
