package transfer

import (
	"bytes"
	"fmt"
	"os"
)

// An idMap maps ids of a container's user namespace to the guest's (user_namespaces(7)).
type idMap []idRange

// An idRange are ids that follow each other in both.
type idRange struct{ Container, Guest, Size int64 }

// overflow is the id of those that have none (user_namespaces(7)).
const overflow = 65534

// readIDMap reads a map of a process, as the guest sees it.
func readIDMap(file string) (ids idMap, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		var r idRange
		if _, err := fmt.Sscan(string(line), &r.Container, &r.Guest, &r.Size); err != nil {
			return nil, fmt.Errorf("%s has a line %q: %w", file, line, err)
		}
		ids = append(ids, r)
	}
	return ids, nil
}

// toGuest is the guest's id; false if there is none.
func (m idMap) toGuest(id int) (int, bool) {
	for _, r := range m {
		if i := int64(id) - r.Container; i >= 0 && i < r.Size {
			return int(r.Guest + i), true
		}
	}
	return 0, false
}

// toContainer is the container's id.
func (m idMap) toContainer(id int) int {
	for _, r := range m {
		if i := int64(id) - r.Guest; i >= 0 && i < r.Size {
			return int(r.Container + i)
		}
	}
	return overflow
}
