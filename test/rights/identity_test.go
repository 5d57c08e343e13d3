package rights

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Each identity's thread is what its name says, and no other thread is. Both runtimes run one
// program, so that comparing them does not show it.
func TestIdentities(t *testing.T) {
	if os.Geteuid() != root {
		t.Fatal("only root can be somebody else: run the test as root")
	}
	before := status(t)
	overrides := []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH}
	for _, c := range []struct {
		name, users, groups string
		// has are capabilities that it has, lacks some that it has not; none means all others.
		has, lacks []uintptr
	}{
		{name: "owner", users: "1000 1000"},
		{name: "supplementary group", users: "1002 1002", groups: "2000"},
		{name: "both groups", users: "1006 2000", groups: "2005"},
		{name: "root", users: "0 0", has: overrides, lacks: []uintptr{63}},
		{name: "root without DAC_OVERRIDE", users: "0 0", has: []uintptr{unix.CAP_CHOWN}, lacks: overrides},
		{name: "root without capabilities", users: "0 0"},
		{name: "DAC_OVERRIDE without root", users: "1003 1003", has: overrides[:1]},
		{name: "FSETID without root", users: "1000 1000", has: []uintptr{unix.CAP_FSETID}},
	} {
		var got threadStatus
		if err := identityOf(t, c.name).as(func() error { got = status(t); return nil }); err != nil {
			t.Fatal(err)
		}
		if got.users != c.users || got.groups != c.groups {
			t.Errorf("%s is %s in the groups %q, want %s in %q", c.name, got.users, got.groups, c.users, c.groups)
		}
		var has uint64
		for _, capability := range c.has {
			has |= 1 << capability
		}
		lacks := ^has
		if c.lacks != nil {
			lacks = 0
			for _, capability := range c.lacks {
				lacks |= 1 << capability
			}
		}
		if got.capabilities&has != has || got.capabilities&lacks != 0 {
			t.Errorf("%s has the capabilities %x", c.name, got.capabilities)
		}
	}
	if after := status(t); after != before {
		t.Errorf("the test's own thread is %v and was %v", after, before)
	}
}

func identityOf(t *testing.T, name string) identity {
	t.Helper()
	for _, i := range identities {
		if i.name == name {
			return i
		}
	}
	t.Fatalf("no identity %q", name)
	return identity{}
}

// threadStatus is what the kernel says of a thread: its effective user and group, its other
// groups, its effective capabilities.
type threadStatus struct {
	users, groups string
	capabilities  uint64
}

// status is the calling thread's (proc_pid_status(5)).
func status(t *testing.T) threadStatus {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	value := func(key string) []string {
		match := regexp.MustCompile(`(?m)^` + key + `:(.*)$`).FindSubmatch(text)
		return strings.Fields(string(match[1]))
	}
	capabilities, err := strconv.ParseUint(value("CapEff")[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return threadStatus{fmt.Sprint(value("Uid")[1], " ", value("Gid")[1]), strings.Join(value("Groups"), " "), capabilities}
}
