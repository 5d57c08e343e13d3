package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// linkSettings are the host's that say whom the kernel keeps from links, FIFOs and files of others
// (Documentation/admin-guide/sysctl/fs.rst). A container under runc has them; the guest's
// kernel would start without.
var linkSettings = []string{"protected_hardlinks", "protected_symlinks", "protected_fifos", "protected_regular"}

// Parameters are the words of a guest's kernel's command line that depend on the host.
func Parameters() ([]string, error) { return linkParameters("/proc/sys") }

// linkParameters gives the guest the host's settings, which are below sysctls.
func linkParameters(sysctls string) (parameters []string, err error) {
	for _, name := range linkSettings {
		value, err := os.ReadFile(filepath.Join(sysctls, "fs", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		number, err := strconv.ParseUint(strings.TrimSpace(string(value)), 10, 8)
		if err != nil {
			return nil, fmt.Errorf("the host's fs.%s: %w", name, err)
		}
		parameters = append(parameters, fmt.Sprintf("%sfs.%s=%d", api.Sysctl, name, number))
	}
	return parameters, nil
}
