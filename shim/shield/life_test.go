package shield

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Removed is gone, and what is open goes on.
func TestRemove(t *testing.T) {
	s := start(t)
	f := add(t, s, "a", false)
	file := open(t, f.path, os.O_RDWR)
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	if _, err := file.WriteAt([]byte("C"), 0); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(f.host); string(got) != "Content" {
		t.Errorf("the host has %q", got)
	}
	if err := s.Remove("a"); err == nil {
		t.Error("it was removed twice")
	}
}

// Descriptors of the process go with their entries.
func TestManyEntries(t *testing.T) {
	s := start(t)
	count := func() int {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.process.Pid()))
		return len(entries)
	}
	host := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(host, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pin := open(t, host, unix.O_PATH)
	before := count()
	const n = 500
	for i := range n {
		entry, err := s.Add(fmt.Sprint(i), pin, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		entry.Close()
	}
	if now := count(); now > before+n+10 {
		t.Errorf("%d descriptors for %d entries", now-before, n)
	}
	for i := range n {
		if err := s.Remove(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); count() > before+10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are left", count()-before)
		}
	}
}

// A process that is killed is known dead, and its files answer errors.
func TestKilled(t *testing.T) {
	s := start(t)
	f := add(t, s, "a", false)
	s.process.Kill()
	<-s.Done()
	if _, err := os.ReadFile(f.path); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("reading then: %v", err)
	}
	if _, err := s.Add("b", open(t, f.host, unix.O_PATH), nil, ""); err == nil {
		t.Error("an entry was added to a dead shield")
	}
	if err := s.Remove("a"); err != nil {
		t.Errorf("removing from a dead shield: %v", err)
	}
}

// Who owns the process has an empty root, two capabilities, and no way to mount.
func TestConfined(t *testing.T) {
	s := start(t)
	add(t, s, "a", false) // an answer comes from a process that has entered its jail
	proc := fmt.Sprintf("/proc/%d/", s.process.Pid())
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%016x", 1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_SYS_ADMIN)
	for _, line := range []string{"CapEff:\t" + want, "CapBnd:\t" + want, "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), line+"\n") {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	entries, err := os.ReadDir(proc + "root")
	if err != nil || len(entries) != 1 || entries[0].Name() != "proc" {
		t.Errorf("its root has %v, %v", entries, err)
	}
	for _, namespace := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		its, _ := os.Readlink(proc + "ns/" + namespace)
		if ours, _ := os.Readlink("/proc/self/ns/" + namespace); its == ours || its == "" {
			t.Errorf("it shares the %s namespace: %s", namespace, its)
		}
	}
}
