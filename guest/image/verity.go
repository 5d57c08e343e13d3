package image

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/go-dmverity/pkg/dm"
	"github.com/containerd/go-dmverity/pkg/utils"
	"github.com/containerd/go-dmverity/pkg/verity"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// guard makes a device of a file whose blocks dm-verity checks when they are read, by a name,
// and returns its path. What was changed is not read: EIO. The hash tree says of itself how it
// is made; it is believed only as far as the root hash is its root.
func guard(name, file string, v *api.Verity) (device string, err error) {
	loop, err := mount.SetupLoop(file, mount.LoopParams{Readonly: true, Autoclear: true, Direct: true})
	if err != nil {
		return "", err
	}
	defer loop.Close()
	params := verity.DefaultParams()
	params.HashAreaOffset = v.HashOffset
	if err := verity.InitParams(&params, loop.Name(), loop.Name()); err != nil {
		return "", fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
	}
	if err := utils.ValidateRootHashSize(v.RootHash, params.HashName); err != nil {
		return "", fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
	}
	table, err := dm.BuildTargetParams(dm.OpenArgs{
		Version: params.HashType, DataDevice: loop.Name(), HashDevice: loop.Name(),
		DataBlockSize: params.DataBlockSize, HashBlockSize: params.HashBlockSize, DataBlocks: params.DataBlocks,
		HashName: params.HashName, RootDigest: v.RootHash, Salt: params.Salt, HashStartBytes: params.HashAreaOffset,
	})
	if err != nil {
		return "", fmt.Errorf("%w (%w)", err, errdefs.ErrInvalidArgument)
	}
	mapper, err := dm.Open()
	if err != nil {
		return "", fmt.Errorf("the guest's kernel has no device mapper: %w", err)
	}
	defer mapper.Close()
	number, err := mapper.CreateDevice(name)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, mapper.RemoveDevice(name))
		}
	}()
	sectors := params.DataBlocks * uint64(params.DataBlockSize/512)
	if err := mapper.LoadTable(name, []dm.Target{{Length: sectors, Type: "verity", Params: table}}); err != nil {
		return "", err
	}
	// The devtmpfs has it by its number; names are udev's.
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(number)), mapper.SuspendDevice(name, false)
}

// unguard takes the device of a name away. That there is none is no error.
func unguard(name string) error {
	mapper, err := dm.Open()
	if err != nil {
		return nil // a kernel without a device mapper has none
	}
	defer mapper.Close()
	if err := mapper.RemoveDevice(name); err != nil && !errors.Is(err, unix.ENXIO) {
		return err
	}
	return nil
}
