package spec

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations that a container may carry. They are untrusted input: the list is
// closed, and none of them names a program, an argument or a path of the host, but for what
// is to be hidden.
const (
	annotationPrefix = "io.containerd.msb."
	// AnnotationCPUs is the number of virtual CPUs of the VM.
	AnnotationCPUs = annotationPrefix + "vm.cpus"
	// AnnotationMemory is the VM's whole memory, such as "512MiB".
	AnnotationMemory = annotationPrefix + "vm.memory"
)

var ownAnnotations = []string{AnnotationCPUs, AnnotationMemory, AnnotationMetadata, AnnotationUpdate, AnnotationHide, AnnotationSockets}

const (
	mib = 1 << 20
	// Overhead is the memory in bytes that a guest needs beside its containers:
	// kernel, page tables, agent, crun. docs/decisions has the measurement.
	Overhead = 128 * mib
	// minLimit is the smallest memory limit in bytes with which a container starts for sure. It is
	// also the smallest that Docker takes.
	minLimit = 6 * mib
	// unlimited and above mean no limit: cgroup v1's largest is just below 2⁶³.
	unlimited = 1 << 60
	// defaultPeriod of the CPU quota, in microseconds (cgroup-v2.rst, cpu.max).
	defaultPeriod = 100_000
)

// Size is how big a VM is.
type Size struct {
	CPUs   int
	Memory int64 // bytes, a multiple of MiB
}

// Size sizes the VM for the container: annotations first, then the limits of the
// container, or of the pod whose sandbox it is, then the default. A
// limit is what the containers may use, so the guest's overhead is added to it.
// host bounds the result.
func (p *Plan) Size(byDefault, host Size) (Size, error) {
	return SizeOf(p.spec.Annotations, p.resources, byDefault, host)
}

// SizeOf is Plan.Size of a container or a pod with these annotations and limits.
func SizeOf(annotations map[string]string, resources *specs.LinuxResources, byDefault, host Size) (Size, error) {
	if err := checkAnnotations(annotations); err != nil {
		return Size{}, err
	}
	cpus, err := cpusOf(annotations, resources, byDefault.CPUs, host.CPUs)
	if err != nil {
		return Size{}, err
	}
	memory, err := memoryOf(annotations, resources, byDefault.Memory)
	if err != nil {
		return Size{}, err
	}
	memory = (memory + mib - 1) / mib * mib
	if memory > host.Memory {
		return Size{}, fmt.Errorf("the VM would need %s of memory and the host has %s: lower the limit: %w",
			units.BytesSize(float64(memory)), units.BytesSize(float64(host.Memory)), errdefs.ErrResourceExhausted)
	}
	return Size{CPUs: cpus, Memory: memory}, nil
}

func checkAnnotations(annotations map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(name, annotationPrefix) && !isAny(name, ownAnnotations...) {
			return invalid("annotation %s is not one of msb's: %s", name, strings.Join(ownAnnotations, ", "))
		}
	}
	return nil
}

func cpusOf(annotations map[string]string, resources *specs.LinuxResources, byDefault, host int) (int, error) {
	if value, set := annotations[AnnotationCPUs]; set {
		cpus, err := strconv.Atoi(value)
		if err != nil || cpus < 1 {
			return 0, invalid("annotation %s: %q is not a number of CPUs", AnnotationCPUs, value)
		}
		if cpus > host {
			return 0, invalid("annotation %s: %d is more than the host's %d CPUs", AnnotationCPUs, cpus, host)
		}
		return cpus, nil
	}
	if resources == nil || resources.CPU == nil || resources.CPU.Quota == nil || *resources.CPU.Quota <= 0 {
		return min(byDefault, host), nil
	}
	period := uint64(defaultPeriod)
	if set := resources.CPU.Period; set != nil && *set > 0 {
		period = *set
	}
	return min(max(1, int(math.Ceil(float64(*resources.CPU.Quota)/float64(period)))), host), nil
}

func memoryOf(annotations map[string]string, resources *specs.LinuxResources, byDefault int64) (int64, error) {
	if value, set := annotations[AnnotationMemory]; set {
		memory, err := units.RAMInBytes(value)
		if err != nil {
			return 0, invalid("annotation %s: %q is not a size such as 512MiB", AnnotationMemory, value)
		}
		if memory < Overhead {
			return 0, invalid("annotation %s: %s is less than the %s that a guest needs", AnnotationMemory, value, units.BytesSize(Overhead))
		}
		return memory, nil
	}
	limit := limitOf(resources)
	switch {
	case limit <= 0 || limit >= unlimited:
		return byDefault, nil
	case limit < minLimit:
		return 0, invalid("a memory limit of %s is too small to start a container; give it %s or more",
			units.BytesSize(float64(limit)), units.BytesSize(minLimit))
	}
	return limit + Overhead, nil
}

func limitOf(resources *specs.LinuxResources) int64 {
	if resources == nil || resources.Memory == nil || resources.Memory.Limit == nil {
		return 0
	}
	return *resources.Memory.Limit
}

// Fits refuses limits that a VM of this size cannot give to a container: they would
// not hold, and it cannot grow.
func (s Size) Fits(resources *specs.LinuxResources) error {
	if limit, most := limitOf(resources), s.Memory-Overhead; limit > most && limit < unlimited {
		return invalid("a memory limit of %s is more than the %s that the VM has for its containers, and it cannot grow: create the pod or container anew with that limit",
			units.BytesSize(float64(limit)), units.BytesSize(float64(most)))
	}
	if resources == nil || resources.CPU == nil || resources.CPU.Quota == nil {
		return nil
	}
	period := uint64(defaultPeriod)
	if resources.CPU.Period != nil && *resources.CPU.Period > 0 {
		period = *resources.CPU.Period
	}
	if cpus := float64(*resources.CPU.Quota) / float64(period); cpus > float64(s.CPUs) {
		return invalid("a CPU limit of %.3g is more than the VM's %d CPUs, and it cannot grow: create the pod or container anew with that limit", cpus, s.CPUs)
	}
	return nil
}
