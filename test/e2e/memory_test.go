package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// What a container uses is the host's again when it has freed it.
func memoryReturns(t *testing.T) {
	use := int64(harness.FewEmulated(512, 1024)) // MiB
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithMemoryLimit(uint64(use+256) << 20),
		oci.WithMounts([]specs.Mount{bind(filepath.Join(host.Output, "tools"), "/probe", "ro")}),
	}}, sleeper...)
	occupy := func(mib int64) {
		c.must(fmt.Sprintf("/probe/probe occupy %d >/said & until grep -q occupied /said; do sleep 0.1; done", mib))
	}
	free := func() { c.must("killall -9 probe && rm /said") }
	occupy(1) // what the first run of anything leaves in the guest's cache
	free()
	before := resident(t, c.vmm())
	occupy(use)
	used := resident(t, c.vmm())
	free()
	t.Logf("before %d MiB, with %d MiB used %d MiB", before>>20, use, used>>20)
	if used < before+use<<20/2 {
		t.Errorf("the VMM has %d MiB, and had %d MiB before a container used %d MiB", used>>20, before>>20, use)
	}
	var after int64
	if !harness.Eventually(func() bool {
		after = resident(t, c.vmm())
		return after <= before+(use<<20)/10
	}) {
		t.Errorf("the VMM keeps %d MiB, and had %d MiB before", after>>20, before>>20)
	}
	t.Logf("after %d MiB", after>>20)
}

// resident is how much memory the process of a VM has, the guest's included, in bytes.
func resident(t *testing.T, vmm int) int64 {
	t.Helper()
	bytes := residentMemory(vmm)
	if bytes == 0 {
		t.Fatalf("process %d has no memory", vmm)
	}
	return bytes
}
