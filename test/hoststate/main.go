// hoststate tells what has become different about the host that it runs on: a run of tests
// must leave it as it was.
//
//	hoststate save FILE            notes the state
//	hoststate compare [-resting] FILE  names what differs from it now; exit status 1 if anything does
//
// Compared are the files of /usr and /etc, the sysctls, and the clock; with -resting, when
// no test runs any more, also mounts, network interfaces, control groups, the processes
// that containers consist of, and what this project's programs and their clients have in the
// temporary folder.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hoststate:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("hoststate", flag.ContinueOnError)
	resting := flags.Bool("resting", false, "compare also what a test that runs has")
	if len(arguments) == 0 {
		return errors.New("usage: hoststate save FILE, or hoststate compare [-resting] FILE")
	}
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	file := flags.Arg(0)
	now, err := read()
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "save":
		return save(now, file)
	case "compare":
		before, err := load(file)
		if err != nil {
			return err
		}
		if *resting {
			if err := awaitTemporary(before, &now); err != nil {
				return err
			}
		}
		differences := compare(before, now, *resting)
		for _, difference := range differences {
			fmt.Println("the host is not as it was:", difference)
		}
		if len(differences) > 0 {
			return fmt.Errorf("%d things are not as they were", len(differences))
		}
		return nil
	default:
		return fmt.Errorf("%q is neither save nor compare", arguments[0])
	}
}

func save(s state, file string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func load(file string) (s state, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return state{}, err
	}
	return s, json.Unmarshal(data, &s)
}
