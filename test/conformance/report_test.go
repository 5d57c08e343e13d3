package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/conformance/expect"
)

func TestReadReport(t *testing.T) {
	for _, c := range []struct {
		name, report, err string
		specs             []spec
	}{
		{"results", `[{"SpecReports": [
			{"LeafNodeType": "BeforeSuite", "State": "passed"},
			{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[k8s.io] A", "b "], "LeafNodeText": "c [X]", "State": "passed", "RunTime": 1240000000},
			{"LeafNodeType": "It", "LeafNodeText": "d", "State": "failed", "Failure": {"Message": "why"}},
			{"LeafNodeType": "It", "LeafNodeText": "e", "State": "timedout", "Failure": {"Message": "late"}},
			{"LeafNodeType": "It", "LeafNodeText": "f", "State": "skipped", "Failure": {"Message": "cannot"}},
			{"LeafNodeType": "It", "LeafNodeText": "out of focus", "State": "skipped"},
			{"LeafNodeType": "It", "LeafNodeText": "pending", "State": "pending"}]}]`, "", []spec{
			{name: "[k8s.io] A b c [X]", result: expect.Passed, took: 1200 * time.Millisecond},
			{name: "d", result: expect.Failed, message: "why"},
			{name: "e", result: expect.Failed, message: "late"},
			{name: "f", result: expect.Skipped, message: "cannot"},
		}},
		{
			"a suite that cannot begin", `[{"SpecReports": [{"LeafNodeType": "BeforeSuite", "State": "panicked", "Failure": {"Message": "no file"}}]}]`,
			"BeforeSuite: no file", nil,
		},
		{"a suite that was ended", `[{"SpecialSuiteFailureReasons": ["Interrupted by User", "late"]}]`, "the suite failed: Interrupted by User; late", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "report.json")
			if err := os.WriteFile(path, []byte(c.report), 0o600); err != nil {
				t.Fatal(err)
			}
			specs, err := readReport(path)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != c.err || !slices.Equal(specs, c.specs) {
				t.Errorf("%+v, %q", specs, text)
			}
		})
	}
}
