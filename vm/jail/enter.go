package jail

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// controlEnv names the descriptor on which a cooperating process and its keeper
// talk, one byte each way.
const controlEnv = "MSB_JAIL"

// Words of that talk.
const (
	wordLoaded     = 'L' // process: loaded, move me
	wordFailed     = 'F' // process: not loaded, the reason follows
	wordGo         = 'G' // keeper: you are in
	wordGoFiltered = 'S' // keeper: you are in; install the filter
	wordGoInternet = 'I' // keeper: you are in; install the one with internet sockets
	wordGoDataOnly = 'D' // keeper: you are in; install the one for the content of files
)

// Enter is called by a cooperating process that has loaded what it needs of the
// host's file system. It returns when the process is in its jail.
func Enter() error {
	control, err := controlFile()
	if err != nil {
		return err
	}
	defer control.Close()
	word := []byte{wordLoaded}
	if _, err := control.Write(word); err != nil {
		return fmt.Errorf("talking to the shim: %w", err)
	}
	if _, err := control.Read(word); err != nil {
		return fmt.Errorf("the shim did not say that this is the jail: %w", err)
	}
	switch word[0] {
	case wordGoFiltered:
		return installFilter(policy(ordinary))
	case wordGoInternet:
		return installFilter(policy(internet))
	case wordGoDataOnly:
		return installFilter(policy(dataOnly))
	}
	return nil
}

// Fail is called instead of Enter by a process that could not load what it needs.
func Fail(reason error) {
	if control, err := controlFile(); err == nil {
		_, _ = control.Write(append([]byte{wordFailed}, reason.Error()...))
		control.Close()
	}
}

func controlFile() (*os.File, error) {
	fd, err := strconv.Atoi(os.Getenv(controlEnv))
	if err != nil {
		return nil, errors.New("this program is started by the shim; it is not run by hand")
	}
	return os.NewFile(uintptr(fd), "control"), nil
}
