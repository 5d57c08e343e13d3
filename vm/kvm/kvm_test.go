package kvm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestCheckCPU(t *testing.T) {
	for name, c := range map[string]struct {
		cpuinfo string
		ok      bool
	}{
		"intel":          {"processor\t: 0\nflags\t\t: fpu vmx sse4_2\n", true},
		"amd":            {"flags\t\t: fpu svm\n", true},
		"guest":          {"flags\t\t: fpu sse4_2 hypervisor\n", false},
		"part of a word": {"flags\t\t: svm_lock\nmodel name\t: vmx svm\n", false},
		"empty":          {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "cpuinfo")
			if err := os.WriteFile(file, []byte(c.cpuinfo), 0o600); err != nil {
				t.Fatal(err)
			}
			err := checkCPU(file)
			if (err == nil) != c.ok {
				t.Fatalf("checkCPU = %v", err)
			}
			if err != nil && !errdefs.IsFailedPrecondition(err) {
				t.Fatalf("error is not of class FailedPrecondition: %v", err)
			}
		})
	}
}

// Each cause has a remedy, and all are of the class by which a driver is passed over.
func TestExplain(t *testing.T) {
	for errno, want := range map[error]string{
		unix.ENOENT: "load the module", unix.EACCES: "give containerd access", unix.EPERM: "give containerd access",
		unix.EBUSY: "another hypervisor", unix.ENOTTY: "not KVM's device", unix.ENOMEM: "no memory left",
		errors.New("exit reason 17"): "exit reason 17",
	} {
		err := explain(fmt.Errorf("creating a VM: %w", errno))
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), Device) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// A check must come back soon and must agree with itself on any host: with no
// device, a denied one, one that only opens, or a real one.
func TestCheckIsBoundedAndConsistent(t *testing.T) {
	start := time.Now()
	first, second := Check(), Check()
	if (first == nil) != (second == nil) {
		t.Errorf("two checks disagree: %v, %v", first, second)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("two checks took %v", took)
	}
	t.Logf("this host: %v", first)
}

// The time in which a thread waits for a processor is known, and none of it in a kernel that tells
// nothing. One that is beside others on its processor has to wait for it.
func TestQueue(t *testing.T) {
	if waited := (queue{}).waited(); waited != 0 {
		t.Errorf("without a schedstat: %v", waited)
	}
	queue, leave := joinQueue()
	defer leave()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	beside := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done") // on that processor, too
	if err := beside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = beside.Process.Kill(); _ = beside.Wait() }()
	waitedBefore, began := queue.waited(), time.Now()
	waited := time.Duration(0)
	for waited < 50*time.Millisecond {
		waited = queue.waited() - waitedBefore
		if time.Since(began) > time.Minute {
			t.Fatalf("after %v: %v", time.Since(began), waited)
		}
	}
	if took := time.Since(began); waited > took {
		t.Errorf("in %v: %v", took, waited)
	}
}

// The loop itself, without the CPU's flag: on a host whose KVM only pretends it
// must be slow or fail, never pass for real.
func TestLoopOnThisHost(t *testing.T) {
	took, err := runLoop()
	t.Logf("loop: %v, %v", took, err)
	if checkCPU("/proc/cpuinfo") != nil && err == nil && took <= loopBudget {
		t.Errorf("a CPU without virtualisation passed the loop in %v", took)
	}
}
