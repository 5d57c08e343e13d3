// Package cri is what msb takes of the CRI's description of a pod: the messages of cri.proto, which
// are on the wire as those of k8s.io/cri-api. That package has all of the CRI and brings gRPC with
// it, whose code each of the shim's processes would have to set up.
package cri

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// podType is what the CRI calls the type of a PodSandboxConfig.
const podType = "runtime.v1.PodSandboxConfig"

// PodOf is the PodSandboxConfig in what the CRI plugin sends. What msb does not look at is dropped.
func PodOf(sent *anypb.Any) (*PodSandboxConfig, error) {
	if sent.MessageName() != podType { // with or without a prefix
		return nil, fmt.Errorf("it is of type %q, not %q", sent.GetTypeUrl(), podType)
	}
	pod := new(PodSandboxConfig)
	return pod, proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(sent.GetValue(), pod)
}
