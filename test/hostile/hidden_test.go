package hostile

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
)

const hiding measure = "hidden paths"

// hidden is msb-krun's place, with a share in which something is hidden for each attempt.
var hidden = &place{"msb-krun with hidden paths", true, true, hiddenAttempts(), stageHidden}

func TestVM30Intruder(t *testing.T) { intrude(t, hidden) }

// hiddenTries are what an intruder may try with what is hidden in a directory: .env,
// secrets/key, up/deep/key and the directory empty. Beside them it has the file own and the
// directory seen.
var hiddenTries = []struct {
	name     string
	measures []measure
	do       func(dir string, t Targets) error
}{
	{"read a hidden file", []measure{hiding}, func(dir string, _ Targets) error { return steal(dir + "/.env") }},
	{"by .. of another directory", []measure{hiding}, func(dir string, _ Targets) error { return steal(dir + "/seen/../.env") }},
	{"by .. of a hidden directory", []measure{hiding}, func(dir string, _ Targets) error { return steal(dir + "/secrets/../secrets/key") }},
	{"by a descriptor that is opened again", []measure{hiding}, func(dir string, _ Targets) error {
		return opened(unix.Open(dir+"/.env", unix.O_PATH, 0))
	}},
	{"following no links of proc", []measure{hiding}, func(dir string, _ Targets) error {
		return opened(unix.Openat2(unix.AT_FDCWD, dir+"/.env", &unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_NO_MAGICLINKS}))
	}},
	{"on no mount but the share's", []measure{hiding}, func(dir string, _ Targets) error {
		parent, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		return opened(unix.Openat2(parent, ".env", &unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV}))
	}},
	{"list a hidden directory", []measure{hiding}, func(dir string, _ Targets) error {
		entries, err := os.ReadDir(dir + "/secrets")
		if err == nil && len(entries) == 0 {
			err = errors.New("it is empty")
		}
		return err
	}},
	{"read in a hidden directory", []measure{hiding}, func(dir string, _ Targets) error { return steal(dir + "/secrets/key") }},
	{"learn a hidden file's size", []measure{hiding}, func(dir string, _ Targets) error {
		info, err := os.Lstat(dir + "/.env")
		if err == nil && info.Size() == 0 {
			err = errors.New("it is empty")
		}
		return err
	}},
	{"rename a hidden file", []measure{hiding}, func(dir string, _ Targets) error {
		return cmp.Or(os.Rename(dir+"/.env", dir+"/moved"), steal(dir+"/moved"))
	}},
	{"rename a hidden directory", []measure{hiding}, func(dir string, _ Targets) error {
		return cmp.Or(os.Rename(dir+"/secrets", dir+"/moved"), steal(dir+"/moved/key"))
	}},
	{"rename what a hidden file is in", []measure{hiding}, func(dir string, _ Targets) error {
		if err := os.Rename(dir+"/up/deep", dir+"/moved"); err != nil {
			return err
		}
		return steal(dir + "/moved/key")
	}},
	{"rename what that is in", []measure{hiding}, func(dir string, _ Targets) error {
		if err := os.Rename(dir+"/up", dir+"/moved"); err != nil {
			return err
		}
		return steal(dir + "/moved/deep/key")
	}},
	{"rename over a hidden file", []measure{hiding}, func(dir string, _ Targets) error { return os.Rename(dir+"/own", dir+"/.env") }},
	{"exchange it for another", []measure{hiding}, func(dir string, _ Targets) error {
		return cmp.Or(unix.Renameat2(unix.AT_FDCWD, dir+"/own", unix.AT_FDCWD, dir+"/.env", unix.RENAME_EXCHANGE), steal(dir+"/own"))
	}},
	{"exchange a directory for a hidden one", []measure{hiding}, func(dir string, _ Targets) error {
		return cmp.Or(unix.Renameat2(unix.AT_FDCWD, dir+"/secrets", unix.AT_FDCWD, dir+"/seen", unix.RENAME_EXCHANGE), steal(dir+"/seen/key"))
	}},
	{"remove a hidden file", []measure{hiding}, func(dir string, _ Targets) error { return os.Remove(dir + "/.env") }},
	{"remove a hidden directory", []measure{hiding}, func(dir string, _ Targets) error { return unix.Rmdir(dir + "/empty") }},
	{"link to a hidden file", []measure{hiding}, func(dir string, _ Targets) error {
		return cmp.Or(os.Link(dir+"/.env", dir+"/linked"), steal(dir+"/linked"))
	}},
	{"link to it by a descriptor", []measure{hiding}, func(dir string, _ Targets) error {
		fd, err := unix.Open(dir+"/.env", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return cmp.Or(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/linked", unix.AT_SYMLINK_FOLLOW), steal(dir+"/linked"))
	}},
	{"write to a hidden file", []measure{hiding}, func(dir string, _ Targets) error { return write(dir + "/.env") }},
	{"change its mode", []measure{hiding}, func(dir string, _ Targets) error { return os.Chmod(dir+"/.env", 0o777) }},
	{"create in a hidden directory", []measure{hiding}, func(dir string, _ Targets) error { return os.WriteFile(dir+"/secrets/new", nil, 0o600) }},
	{"make a node in it", []measure{hiding}, func(dir string, _ Targets) error {
		return unix.Mknod(dir+"/secrets/node", unix.S_IFIFO|0o600, 0)
	}},
	{"move another file into it", []measure{hiding}, func(dir string, _ Targets) error { return os.Rename(dir+"/own", dir+"/secrets/own") }},
	{"unmount what covers it", []measure{filter, fewCapabilities}, func(dir string, _ Targets) error {
		return cmp.Or(unix.Unmount(dir+"/.env", unix.MNT_DETACH), steal(dir+"/.env"))
	}},
	{"clone the share without what covers it", []measure{filter, fewCapabilities}, func(dir string, _ Targets) error {
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		return opened(unix.Openat(tree, ".env", unix.O_PATH, 0))
	}},
	{"open it by its handle", []measure{filter, fewCapabilities}, func(dir string, t Targets) error {
		parent, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		fd, err := unix.OpenByHandleAt(parent, unix.NewFileHandle(t.HandleType, t.Handle), unix.O_RDONLY)
		return opened(fd, err)
	}},
}

// hiddenAttempts are the tries, each with a directory of its own.
func hiddenAttempts() (attempts []attempt) {
	for i, try := range hiddenTries {
		attempts = append(attempts, attempt{try.name, try.measures, func(t Targets) error {
			return try.do(filepath.Join(t.Writable, strconv.Itoa(i)), t)
		}})
	}
	return attempts
}

const secretContent = "secret"

// steal reads a secret.
func steal(path string) error {
	content, err := os.ReadFile(path)
	if err == nil && string(content) != secretContent {
		err = fmt.Errorf("it has %q", content)
	}
	return err
}

// opened reads a secret by a descriptor, which it closes.
func opened(fd int, err error) error {
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return steal(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func stageHidden(t *testing.T, without map[measure]bool) scene {
	t.Helper()
	dir := shortDir(t)
	project := filepath.Join(dir, "project")
	var paths []string
	for i := range hiddenTries {
		own := strconv.Itoa(i)
		for _, name := range []string{".env", "secrets/key", "up/deep/key"} {
			made(t, filepath.Join(project, own, name), secretContent, 0o600)
			paths = append(paths, filepath.Join(own, name))
		}
		made(t, filepath.Join(project, own, "own"), "own", 0o600)
		for _, name := range []string{"empty", "seen"} {
			if err := os.Mkdir(filepath.Join(project, own, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		paths = append(paths, filepath.Join(own, "empty"), filepath.Join(own, "secrets"))
	}
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(project, strconv.Itoa(len(hiddenTries)-1), ".env"), 0)
	if err != nil {
		t.Fatal(err)
	}
	var attributes share.Attributes
	if !without[hiding] {
		attributes.Hidden = share.Hide(paths, nil)
	}
	trees := open(t, filepath.Join(dir, "trees"))
	added := add(t, trees, project, attributes)
	s := scene{spec: krun.Driver{Program: self(t)}.Jail(machineOf(t, dir, trees.Pool(), trees.Files()))}
	s.targets.Writable = filepath.Join("/shares/pool", added.Tag)
	s.targets.HandleType, s.targets.Handle = handle.Type(), handle.Bytes()
	s.switchOffCommon(t, without)
	return s
}
