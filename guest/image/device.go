package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/guest/bundle"
)

// attachDevices makes a loop device (loop(4)) of each block device of the host's that has none,
// and tells which those are by the tags of their files, also with an error.
func (i *Images) attachDevices(devices []*api.BlockDevice) (made []string, err error) {
	if len(devices) == 0 {
		return nil, nil
	}
	stage := api.ImageStagePath()
	err = bundle.WithFiles(stage, func() error {
		for _, device := range devices {
			tag := device.File.GetTag()
			if _, have := i.loops[tag]; have {
				continue
			}
			if err := attach(stage, device); err != nil {
				return fmt.Errorf("device %s: %w", device.File.GetDestination(), err)
			}
			if i.loops == nil {
				i.loops = make(map[string]uint32)
			}
			i.loops[tag] = device.Number
			made = append(made, tag)
		}
		return nil
	})
	return made, err
}

// attach makes the loop device of one. It reads and writes past the page cache of the file.
func attach(stage string, device *api.BlockDevice) (err error) {
	source, err := bundle.Staged(stage, device.File)
	if err != nil {
		return err
	}
	flags, mode := uint32(unix.LO_FLAGS_DIRECT_IO), os.O_RDWR
	if device.File.ReadOnly {
		flags, mode = flags|unix.LO_FLAGS_READ_ONLY, os.O_RDONLY
	}
	file, err := os.OpenFile(source, mode, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := control(unix.LOOP_CTL_ADD, device.Number); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, control(unix.LOOP_CTL_REMOVE, device.Number))
		}
	}()
	return withLoop(device.Number, func(loop int) error {
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: device.BlockSize, Info: unix.LoopInfo64{Flags: flags}}
		return os.NewSyscallError("LOOP_CONFIGURE", unix.IoctlLoopConfigure(loop, &config))
	})
}

// detach takes the loop device of a tag away, once what was written to it is on the host. That
// there is none is no error.
func (i *Images) detach(tag string) error {
	number, have := i.loops[tag]
	if !have {
		return nil
	}
	delete(i.loops, tag)
	err := withLoop(number, func(loop int) error {
		err := os.NewSyscallError("fsync", unix.Fsync(loop))
		if err != nil {
			err = fmt.Errorf("writing data back to loop device %d failed: %w: some of what the container wrote is lost", number, err)
		}
		return errors.Join(err, os.NewSyscallError("LOOP_CLR_FD", unix.IoctlSetInt(loop, unix.LOOP_CLR_FD, 0)))
	})
	return errors.Join(err, control(unix.LOOP_CTL_REMOVE, number))
}

// control adds or removes a loop device.
func control(request uint, number uint32) error {
	file, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.IoctlSetInt(int(file.Fd()), request, int(number)); err != nil {
		return fmt.Errorf("loop device %d of the guest: %w", number, os.NewSyscallError("ioctl", err))
	}
	return nil
}

func withLoop(number uint32, do func(loop int) error) error {
	file, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return do(int(file.Fd()))
}
