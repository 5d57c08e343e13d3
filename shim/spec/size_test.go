package spec

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestSize(t *testing.T) {
	const gib = 1 << 30
	host, byDefault := Size{CPUs: 4, Memory: 8 * gib}, Size{CPUs: 1, Memory: 512 * mib}
	limits := func(memory, quota int64, period uint64) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period},
			}
		}
	}
	annotated := func(pairs ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Annotations = map[string]string{}
			for i := 0; i < len(pairs); i += 2 {
				s.Annotations[pairs[i]] = pairs[i+1]
			}
		}
	}
	pod := func(pairs ...string) func(*specs.Spec) {
		return annotated(append([]string{criContainerType, "sandbox", criSandboxID, "p"}, pairs...)...)
	}
	for name, c := range map[string]struct {
		change []func(*specs.Spec)
		want   Size
		err    string
	}{
		"default":                   {nil, byDefault, ""},
		"limits":                    {[]func(*specs.Spec){limits(gib, 150_000, 100_000)}, Size{2, gib + Overhead}, ""},
		"no quota":                  {[]func(*specs.Spec){limits(gib, -1, 100_000)}, Size{1, gib + Overhead}, ""},
		"default period":            {[]func(*specs.Spec){limits(gib, 300_000, 0)}, Size{3, gib + Overhead}, ""},
		"more than the host's CPUs": {[]func(*specs.Spec){limits(gib, 6_400_000, 100_000)}, Size{4, gib + Overhead}, ""},
		"a part of a CPU":           {[]func(*specs.Spec){limits(gib, 1_000, 100_000)}, Size{1, gib + Overhead}, ""},
		"not a multiple of MiB":     {[]func(*specs.Spec){limits(gib+1, -1, 0)}, Size{1, gib + Overhead + mib}, ""},
		"unlimited":                 {[]func(*specs.Spec){limits(-1, -1, 0)}, byDefault, ""},
		"unlimited, cgroup v1":      {[]func(*specs.Spec){limits(0x7ffffffffffff000, -1, 0)}, byDefault, ""},
		"the smallest":              {[]func(*specs.Spec){limits(minLimit, -1, 0)}, Size{1, minLimit + Overhead}, ""},
		"too small":                 {[]func(*specs.Spec){limits(minLimit-1, -1, 0)}, Size{}, "too small"},
		"too big":                   {[]func(*specs.Spec){limits(8*gib, -1, 0)}, Size{}, "the host has 8GiB"},
		"a pod's":                   {[]func(*specs.Spec){pod(criCPUQuota, "200000", criCPUPeriod, "100000", criMemory, "1073741824")}, Size{2, gib + Overhead}, ""},
		"a pod without limits":      {[]func(*specs.Spec){pod(criCPUQuota, "0", criCPUPeriod, "100000", criMemory, "0")}, byDefault, ""},
		"a pod's before its own":    {[]func(*specs.Spec){limits(2*gib, -1, 0), pod(criMemory, "1073741824")}, Size{1, gib + Overhead}, ""},
		"annotations before all":    {[]func(*specs.Spec){limits(2*gib, 400_000, 0), pod(AnnotationCPUs, "2", AnnotationMemory, "3GiB", criMemory, "1")}, Size{2, 3 * gib}, ""},
		"too many CPUs":             {[]func(*specs.Spec){annotated(AnnotationCPUs, "5")}, Size{}, "more than the host's 4"},
		"no CPUs":                   {[]func(*specs.Spec){annotated(AnnotationCPUs, "0")}, Size{}, "not a number of CPUs"},
		"too little memory":         {[]func(*specs.Spec){annotated(AnnotationMemory, "1MiB")}, Size{}, "less than the 128MiB"},
		"no memory":                 {[]func(*specs.Spec){annotated(AnnotationMemory, "lots")}, Size{}, "not a size"},
		"unknown annotation":        {[]func(*specs.Spec){annotated("io.containerd.msb.qemu.path", "/bin/sh")}, Size{}, "not one of msb's"},
		"others' annotations":       {[]func(*specs.Spec){annotated("io.containerd.msbx", "1", "a", "b")}, byDefault, ""},
		"malformed pod quota":       {[]func(*specs.Spec){pod(criCPUQuota, "x")}, Size{}, "not a number"},
		"malformed pod memory":      {[]func(*specs.Spec){pod(criMemory, "1Gi")}, Size{}, "not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			var got Size
			plan, err := New(container(c.change...), "/bundle")
			if err == nil {
				got, err = plan.Size(byDefault, host)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("Size = %v, want %q", err, c.err)
			}
			if got != c.want {
				t.Errorf("Size = %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestFits(t *testing.T) {
	size := Size{CPUs: 2, Memory: 256*mib + Overhead}
	number := func(n int64) *int64 { return &n }
	period := uint64(50_000)
	for name, c := range map[string]struct {
		resources *specs.LinuxResources
		err       string
	}{
		"nothing":       {nil, ""},
		"all of it":     {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number(256 * mib)}}, ""},
		"more":          {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number(256*mib + 1)}}, "cannot grow"},
		"unlimited":     {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number(-1)}, CPU: &specs.LinuxCPU{Quota: number(-1)}}, ""},
		"both CPUs":     {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(200_000)}}, ""},
		"three CPUs":    {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(300_000)}}, "cannot grow"},
		"by the period": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(150_000), Period: &period}}, "cannot grow"},
	} {
		t.Run(name, func(t *testing.T) {
			err := size.Fits(c.resources)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("Fits = %v, want %q", err, c.err)
			}
		})
	}
}
