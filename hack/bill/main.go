// bill says what an installation of msb is made of: of which parts that others wrote, of which
// versions, and under which licences.
//
//	bill licenses OUTPUT ROOT >LICENSES.txt
//	bill spdx OUTPUT ROOT NAME VERSION >NAME.spdx.json
//	bill check FILE.spdx.json ROOT
//
// ROOT has what "make install" put there, with the prefix /usr; OUTPUT is _output, where it was
// built. What is linked is read from what was built: Go's programs have the list of their modules in
// them, and cargo says which crates those of Rust take. SOURCE_DATE_EPOCH is the document's time.
// It is run in the directory hack.
//
// check tells whether a document has all files of ROOT, as they are, and nothing else.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bill:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	out := bufio.NewWriter(os.Stdout)
	switch {
	case len(args) == 3 && args[0] == "licenses":
		parts, err := collect(args[1], args[2])
		if err != nil {
			return err
		}
		return errors.Join(writeLicenses(out, parts), out.Flush())
	case len(args) == 5 && args[0] == "spdx":
		parts, err := collect(args[1], args[2])
		if err != nil {
			return err
		}
		return errors.Join(writeSPDX(out, parts, args[2], args[3], args[4]), out.Flush())
	case len(args) == 3 && args[0] == "check":
		return check(args[1], args[2])
	}
	return errors.New("usage: bill licenses OUTPUT ROOT | bill spdx OUTPUT ROOT NAME VERSION | bill check FILE ROOT")
}
