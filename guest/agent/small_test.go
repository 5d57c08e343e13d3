package agent

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The agent has no HTTP and none of gRPC's servers and clients: every VM would read them and start them.
// The tag is the Makefile's.
func TestNoGRPC(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "no_grpc", "../../cmd/msb-agent")
	output, err := list.Output()
	if err != nil {
		t.Fatalf("%v: %v", list, err)
	}
	packages := strings.Fields(string(output))
	if !slices.Contains(packages, "github.com/containerd/ttrpc") {
		t.Fatalf("these are not the agent's packages: %q", packages)
	}
	for _, large := range []string{"google.golang.org/grpc", "net/http", "crypto/tls", "html/template"} {
		if slices.Contains(packages, large) {
			t.Errorf("the agent has %s: find who imports it by \"go list -deps\"", large)
		}
	}
}
