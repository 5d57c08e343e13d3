package cri

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	full "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every message and field here is one of the CRI's, with the same number and type, so that one reads
// what was written as the other.
func TestSameAsTheCRI(t *testing.T) {
	theirs := new(full.PodSandboxConfig).ProtoReflect().Descriptor().ParentFile()
	ours := File_shim_spec_cri_cri_proto
	for i := range ours.Messages().Len() {
		message := ours.Messages().Get(i)
		other := theirs.Messages().ByName(message.Name())
		if other == nil {
			t.Errorf("the CRI has no message %s", message.Name())
			continue
		}
		for j := range message.Fields().Len() {
			field := message.Fields().Get(j)
			if other := other.Fields().ByName(field.Name()); other == nil || shape(field) != shape(other) {
				t.Errorf("%s.%s is %+v, and the CRI's is %v", message.Name(), field.Name(), shape(field), other)
			}
		}
	}
	for i := range ours.Enums().Len() {
		enum := ours.Enums().Get(i)
		other := theirs.Enums().ByName(enum.Name())
		if other == nil || other.Values().Len() != enum.Values().Len() {
			t.Errorf("%s is not the CRI's: %v", enum.Name(), other)
			continue
		}
		for j := range enum.Values().Len() {
			value := enum.Values().Get(j)
			if other := other.Values().ByName(value.Name()); other == nil || other.Number() != value.Number() {
				t.Errorf("%s.%s is %d, and the CRI's is %v", enum.Name(), value.Name(), value.Number(), other)
			}
		}
	}
}

type field struct {
	number      protoreflect.FieldNumber
	kind        protoreflect.Kind
	cardinality protoreflect.Cardinality
	of          protoreflect.Name // message or enum
}

func shape(f protoreflect.FieldDescriptor) field {
	s := field{number: f.Number(), kind: f.Kind(), cardinality: f.Cardinality()}
	switch {
	case f.Message() != nil:
		s.of = f.Message().Name()
	case f.Enum() != nil:
		s.of = f.Enum().Name()
	}
	return s
}

// A pod as the CRI plugin sends it is read, and nothing else is taken for one.
func TestPodOf(t *testing.T) {
	sent, err := proto.Marshal(&full.PodSandboxConfig{
		Metadata: &full.PodSandboxMetadata{Name: "not looked at"},
		Hostname: "box", Annotations: map[string]string{"a": "b"},
		Linux: &full.LinuxPodSandboxConfig{
			CgroupParent:    "/pods",
			SecurityContext: &full.LinuxSandboxSecurityContext{NamespaceOptions: &full.NamespaceOption{Pid: full.NamespaceMode_NODE}},
			Overhead:        &full.LinuxContainerResources{CpuQuota: 1},
			Resources:       &full.LinuxContainerResources{MemoryLimitInBytes: 1 << 30},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &PodSandboxConfig{
		Hostname: "box", Annotations: map[string]string{"a": "b"},
		Linux: &LinuxPodSandboxConfig{
			CgroupParent:    "/pods",
			SecurityContext: &LinuxSandboxSecurityContext{NamespaceOptions: &NamespaceOption{Pid: NamespaceMode_NODE}},
			Resources:       &LinuxContainerResources{MemoryLimitInBytes: 1 << 30},
		},
	}
	for _, name := range []string{podType, "type.googleapis.com/" + podType} {
		if pod, err := PodOf(&anypb.Any{TypeUrl: name, Value: sent}); err != nil || !proto.Equal(pod, want) {
			t.Errorf("%s: %v, %v; want %v", name, pod, err, want)
		}
	}
	for name, other := range map[string]*anypb.Any{
		"nothing":         nil,
		"another type":    {TypeUrl: "runtime.v1.ContainerConfig", Value: sent},
		"no protobuf":     {TypeUrl: podType, Value: []byte("{}")},
		"one that is cut": {TypeUrl: podType, Value: sent[:len(sent)-1]},
	} {
		if pod, err := PodOf(other); err == nil {
			t.Errorf("%s: %v", name, pod)
		}
	}
}
