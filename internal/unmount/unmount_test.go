package unmount

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

func TestPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root mounts: run it as root")
	}
	err := thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		dir := t.TempDir()
		mounted, link := filepath.Join(dir, "mounted"), filepath.Join(dir, "link")
		if err := os.Mkdir(mounted, 0o700); err != nil {
			return err
		}
		if err := os.Symlink(mounted, link); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
			return err
		}
		busy, err := os.Create(filepath.Join(mounted, "file"))
		if err != nil {
			return err
		}
		defer busy.Close()
		for _, c := range []struct {
			path string
			left bool
		}{
			{filepath.Join(dir, "nothing"), true},
			{link, true},
			{mounted, false},
			{mounted, false}, // nothing is mounted there
		} {
			if err := Path(c.path); err != nil {
				t.Errorf("%s: %v", c.path, err)
			}
			if left, err := mountinfo.Mounted(mounted); err != nil || left != c.left {
				t.Errorf("behind %s it is mounted: %v, want %v (%v)", c.path, left, c.left, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
