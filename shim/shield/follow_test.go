package shield

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// limit is how long a test waits for what must come.
const limit = time.Minute

// A file renamed over the source: the next open has it, and only if it is a
// regular file.
func TestFollow(t *testing.T) {
	f := add(t, start(t), "a", true)
	replace := func(make func(path string) error) {
		t.Helper()
		if err := errors.Join(make(f.host+".new"), os.Rename(f.host+".new", f.host)); err != nil {
			t.Fatal(err)
		}
	}
	old := open(t, f.path, os.O_RDONLY)
	replace(func(path string) error { return os.WriteFile(path, []byte("replaced, and longer"), 0o600) })
	if got, err := os.ReadFile(f.path); string(got) != "replaced, and longer" {
		t.Errorf("the next open reads %q, %v", got, err)
	}
	content := make([]byte, 100)
	if n, _ := old.ReadAt(content, 0); string(content[:n]) != "content" {
		t.Errorf("the old descriptor reads %q", content[:n])
	}
	replace(func(path string) error { return os.Symlink("/etc/passwd", path) })
	if _, err := os.ReadFile(f.path); err == nil {
		t.Error("a symbolic link was followed")
	}
	replace(func(path string) error { return unix.Mkfifo(path, 0o600) })
	opened := make(chan error, 1) // one that is opened waits for its other end
	go func() {
		_, err := os.ReadFile(f.path)
		opened <- err
	}()
	select {
	case err := <-opened:
		if err == nil {
			t.Error("a FIFO was opened")
		}
	case <-time.After(limit):
		t.Fatal("a FIFO is being opened")
	}
	replace(func(path string) error { return os.WriteFile(path, []byte("third"), 0o600) })
	if got, err := os.ReadFile(f.path); string(got) != "third" {
		t.Errorf("then %q, %v", got, err)
	}
}

// Without follow the file stays, whatever happens to its name.
func TestPinned(t *testing.T) {
	f := add(t, start(t), "a", false)
	if err := os.Rename(f.host, f.host+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.host, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.path); string(got) != "content" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := os.Remove(f.host + ".old"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.path); string(got) != "content" {
		t.Errorf("after the unlink %q, %v", got, err)
	}
}

// What is mounted on the name later, and what is there when that is gone, is found.
func TestFollowMounts(t *testing.T) {
	s := start(t)
	dir := t.TempDir()
	host, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(host, []byte("below"), 0o600), os.WriteFile(other, []byte("mounted"), 0o600)); err != nil {
		t.Fatal(err)
	}
	entry, err := s.Add("a", open(t, host, unix.O_PATH), open(t, dir, unix.O_PATH), "file")
	if err != nil {
		t.Fatal(err)
	}
	defer entry.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", entry.Fd())
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, "below"},
		{func() error { return unix.Mount(other, host, "", unix.MS_BIND, "") }, "mounted"},
		{func() error { return unix.Unmount(host, unix.MNT_DETACH) }, "below"}, // it is in use
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != step.want || err != nil {
			t.Errorf("read %q, %v, want %q", got, err, step.want)
		}
	}
}

// What is found is as read-only as the file that was added.
func TestFollowReadOnly(t *testing.T) {
	s := start(t)
	dir := t.TempDir()
	host := filepath.Join(dir, "file")
	if err := os.WriteFile(host, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := open(t, host, unix.O_PATH)
	first, err := readOnly(file)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	entry, err := s.Add("a", first, open(t, dir, unix.O_PATH), "file")
	if err != nil {
		t.Fatal(err)
	}
	defer entry.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", entry.Fd())
	for _, content := range []string{"first", "second", "third"} {
		if err := errors.Join(os.WriteFile(host+".new", []byte(content), 0o600), os.Rename(host+".new", host)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != content || err != nil {
			t.Errorf("read %q, %v, want %q", got, err, content)
		}
		if err := os.WriteFile(path, []byte("x"), 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing the %s: %v", content, err)
		}
	}
}

// The process has no directory, whatever it is given to serve: with one, and a right
// that overrides permissions, it could reach the whole host.
func TestNoDirectory(t *testing.T) {
	s := start(t)
	followed := add(t, s, "followed", true)
	pinned := add(t, s, "pinned", false)
	replaced := followed.host + ".new"
	if err := errors.Join(os.WriteFile(replaced, []byte("second"), 0o600), os.Rename(replaced, followed.host)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []shielded{followed, pinned} {
		if _, err := os.ReadFile(f.path); err != nil {
			t.Fatal(err)
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd", s.process.Pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files int
	for _, entry := range entries {
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, entry.Name()), &stat); err != nil {
			continue // closed meanwhile
		}
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			path, _ := os.Readlink(filepath.Join(dir, entry.Name()))
			t.Errorf("descriptor %s is the directory %s", entry.Name(), path)
		case unix.S_IFREG:
			files++
		}
	}
	if files < 2 {
		t.Errorf("%d of its descriptors are files", files)
	}
}

// A process that is not msb-shield any more asks for what it was not given, sends what
// means nothing and descriptors that nobody wants, never reads an answer: it gets no file
// but a regular one under the name that is followed, and the shim keeps nothing for it.
func TestHostileQuestions(t *testing.T) {
	before := descriptors(t)
	conn, process, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	file, err := net.FileConn(process)
	if err != nil {
		t.Fatal(err)
	}
	process.Close()
	asks := file.(*net.UnixConn)
	n := answer(conn)
	dir := t.TempDir()
	host := filepath.Join(dir, "file")
	if err := os.WriteFile(host, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.follow("a", open(t, host, unix.O_PATH), open(t, dir, unix.O_PATH), "file"); err != nil {
		t.Fatal(err)
	}
	ask := func(question api.Find) (api.Found, int) {
		t.Helper()
		var found api.Found
		if err := api.Send(asks, question, open(t, dir, unix.O_PATH)); err != nil {
			t.Fatal(err)
		}
		files, err := api.Receive(asks, &found)
		if err != nil {
			t.Fatal(err)
		}
		defer api.CloseAll(files)
		return found, len(files)
	}
	for name, c := range map[string]struct {
		question api.Find
		make     func() error
		want     api.Found
		files    int
	}{
		"another name":    {api.Find{Entry: "../a"}, nil, api.Found{Errno: int(unix.ENOENT)}, 0},
		"no name":         {api.Find{}, nil, api.Found{Errno: int(unix.ENOENT)}, 0},
		"the file":        {api.Find{Entry: "a"}, nil, api.Found{Changed: true}, 1},
		"a link":          {api.Find{Entry: "a"}, func() error { return os.Symlink("/", host) }, api.Found{Errno: int(unix.ELOOP)}, 0},
		"a directory":     {api.Find{Entry: "a"}, func() error { return os.Mkdir(host, 0o700) }, api.Found{Errno: int(unix.ELOOP)}, 0},
		"nothing is left": {api.Find{Entry: "a"}, func() error { return nil }, api.Found{Errno: int(unix.ENOENT)}, 0},
	} {
		if c.make != nil {
			if err := errors.Join(os.RemoveAll(host), c.make()); err != nil {
				t.Fatal(err)
			}
		}
		if found, files := ask(c.question); found != c.want || files != c.files {
			t.Errorf("%s: %+v and %d descriptors, want %+v and %d", name, found, files, c.want, c.files)
		}
		if err := errors.Join(os.RemoveAll(host), os.WriteFile(host, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody reads the answers: the questions stop, too.
	if err := asks.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var asked int
	for asked = 0; asked < 1_000_000 && api.Send(asks, api.Find{Entry: "a"}) == nil; asked++ {
	}
	if asked == 1_000_000 {
		t.Error("questions are taken without an end while no answer is read")
	}
	if got := descriptors(t) - before; got > 20 {
		t.Errorf("after %d questions the shim has %d more descriptors", asked, got)
	}
	if err := n.close(); err != nil {
		t.Error(err)
	}
	if err := n.close(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	asks.Close()
}

// What means nothing ends the answers.
func TestSenselessQuestion(t *testing.T) {
	for name, message := range map[string][]byte{"no JSON": []byte("{"), "nothing": {}, "much": slices.Repeat([]byte(" "), 16<<10)} {
		conn, process, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		n := answer(conn)
		if err := unix.Sendto(int(process.Fd()), message, unix.MSG_NOSIGNAL, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case <-n.done:
		case <-time.After(limit):
			t.Errorf("%s: questions are still answered", name)
		}
		if err := errors.Join(n.close(), process.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A process that answers the shim and not the kernel does not keep the shim.
func TestKernelNotAnswered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	dir := t.TempDir()
	fuse, err := mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	conn, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	process, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	defer process.Close()
	sleeper, err := jail.Start(jail.Spec{Program: "/bin/sleep", Args: []string{"300"}, Files: []*os.File{fuse}})
	if err != nil {
		t.Fatal(err)
	}
	fuse.Close()
	s := &Shield{dir: dir, conn: conn, process: sleeper, patience: 100 * time.Millisecond}
	answered := make(chan error, 1)
	go func() {
		var request api.Request
		files, err := api.Receive(process.(*net.UnixConn), &request)
		api.CloseAll(files)
		answered <- errors.Join(err, api.Send(process.(*net.UnixConn), api.Reply{}))
	}()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.add(api.Request{Add: "a"}, open(t, path, unix.O_PATH))
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("an entry was opened that nobody serves")
		}
	case <-time.After(limit):
		sleeper.Kill()
		t.Error("the shim waits for ever")
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
