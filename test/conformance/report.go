// Package conformance runs critest, the tests of Kubernetes' container runtime
// interface, with the runtime under a private containerd, and holds the results
// against those that are expected.
package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/conformance/expect"
)

// A spec is what became of one of critest's.
type spec struct {
	name    string
	result  expect.Result
	message string // why it failed or was skipped
	took    time.Duration
}

// suite is what is of interest in a report that Ginkgo writes as JSON.
type suite struct {
	SpecialSuiteFailureReasons []string
	SpecReports                []specReport
}

type specReport struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

// readReport reads a report. What went wrong outside the specs is an error, beside
// the specs.
func readReport(path string) (specs []spec, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []suite
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, s := range suites {
		for _, report := range s.SpecReports {
			if report.LeafNodeType != "It" {
				if report.State == "failed" || report.State == "panicked" {
					err = fmt.Errorf("%s: %s", report.LeafNodeType, report.Failure.Message)
				}
				continue
			}
			if ran(report) {
				specs = append(specs, fromReport(report))
			}
		}
		if len(s.SpecialSuiteFailureReasons) > 0 {
			err = fmt.Errorf("the suite failed: %s", strings.Join(s.SpecialSuiteFailureReasons, "; "))
		}
	}
	return specs, err
}

// ran tells specs that were skipped by themselves, which say why, from those that were
// not to be run.
func ran(report specReport) bool {
	return report.State != "pending" && (report.State != "skipped" || report.Failure.Message != "")
}

func fromReport(report specReport) spec {
	texts := append(slices.Clone(report.ContainerHierarchyTexts), report.LeafNodeText)
	s := spec{
		name: strings.Join(strings.Fields(strings.Join(texts, " ")), " "), result: expect.Failed,
		message: report.Failure.Message, took: report.RunTime.Round(time.Second / 10),
	}
	switch report.State {
	case "passed":
		s.result = expect.Passed
	case "skipped":
		s.result = expect.Skipped
	}
	return s
}
