package image

import (
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
)

// Verity says how an image is checked while it is read: each block against a hash tree behind
// the file system, and the tree against its root.
type Verity struct {
	// RootHash is the root of the tree, which the host vouches for.
	RootHash []byte
	// HashOffset is where the superblock of the tree begins in the file, in bytes.
	HashOffset uint64
}

// MaxVerity is how many bytes of the file that Image.Verity names are read.
const MaxVerity = 4 << 10

// sector is what offsets on a disk are multiples of, in bytes.
const sector = 512

// ReadVerity reads the file that containerd's differ puts beside a layer (containerd,
// docs/snapshotters/erofs.md, "Data Integrity with dm-verity").
func ReadVerity(data []byte) (Verity, error) {
	var file struct {
		RootHash   string `json:"roothash"`
		HashOffset uint64 `json:"hashoffset"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return Verity{}, fmt.Errorf("it does not say how the image is checked: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	root, err := hex.DecodeString(file.RootHash)
	if err != nil || len(root) == 0 {
		return Verity{}, fmt.Errorf("its root hash %q is none: %w", file.RootHash, errdefs.ErrInvalidArgument)
	}
	if file.HashOffset == 0 || file.HashOffset%sector != 0 {
		return Verity{}, fmt.Errorf("its hash offset %d is not one behind a file system: %w", file.HashOffset, errdefs.ErrInvalidArgument)
	}
	return Verity{root, file.HashOffset}, nil
}
