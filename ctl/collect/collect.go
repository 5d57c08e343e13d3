// Package collect gathers what a report of a bug needs, in one archive that can be given to
// others.
//
//	Source.Parts   what is read of the host (parts.go, processes.go, cgroups.go, versions.go)
//	Write          the archive, whole or not at all (archive.go)
//
// What is read is named one by one; nothing is read whole and cleaned afterwards. So what a
// container is given stays out of it: environments, arguments, annotations, labels, what its
// bundle has and what is mounted. Of the paths that were mounted, the names are changed
// (veil.go).
package collect

import (
	"context"
	"strings"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

// A Source is where is read.
type Source struct {
	Host survey.Host
	// Spares is the root of all spares, Cgroups where control groups are mounted.
	Spares, Cgroups string
	// Program is msbctl's file.
	Program string
	// Config names msb's configuration; empty is the shim's own.
	Config string
	// Facts are what the host was asked.
	Facts check.Facts
}

// A Part is a file of the archive. What is no text becomes JSON.
type Part struct {
	Name  string
	Value any
}

const readme = `This is what msbctl collect has found on a host that runs containers with io.containerd.msb.v2.

collect.json    when and by what, and what could not be read
versions.json   versions, and sizes and sums of the files of the installation
check.json      the results of msbctl check
config.json     msb's settings, and which line sets each
sandboxes.json  the sandboxes, as msbctl inspect tells them; paths that were mounted have other names
processes.json  the processes of shims and spares: status, limits, control groups
cgroups.json    the figures of the sandboxes' control groups
spares.json     the spares

What is not in it: environments, arguments, annotations, labels, names of hosts, what is in containers,
in mounted files and in bundles, and logs. Ids of containers and pods are, and the names of namespaces.
`

// A summary is about the archive itself.
type summary struct {
	Time    time.Time `json:"time"`
	Version string    `json:"version"`
	// Failed are the parts that could not be read, or not all of it, and why.
	Failed []string `json:"failed"`
}

// Parts reads them. What cannot be read is told in the first of them, and returned.
func (s Source) Parts(ctx context.Context, now time.Time) (parts []Part, failed []string) {
	failed = []string{}
	add := func(name string, value any, err error) {
		if err != nil {
			failed = append(failed, name+": "+strings.ReplaceAll(err.Error(), "\n", "; ")) // joined errors have a line each
		}
		parts = append(parts, Part{name, value})
	}
	inspections, err := s.inspections(ctx)
	add("sandboxes.json", inspections, err)
	spares, err := s.Host.Spares(s.Spares, "")
	add("spares.json", spares, err)
	families := s.families(inspections, spares)
	add("processes.json", families, nil)
	add("cgroups.json", s.cgroups(families), nil)
	installed, err := s.versions()
	add("versions.json", installed, err)
	add("check.json", check.Run(s.Facts), nil)
	settings, err := s.settings()
	add("config.json", settings, err)
	first := []Part{{"README", readme}, {"collect.json", summary{now.UTC(), s.Facts.Version, failed}}}
	return append(first, parts...), failed
}

// inspections are the sandboxes, whose paths have other names.
func (s Source) inspections(ctx context.Context) ([]survey.Inspection, error) {
	all, err := s.Host.Find(ctx)
	inspections := []survey.Inspection{}
	names := newVeil()
	for _, sandbox := range all {
		i := s.Host.Inspect(sandbox)
		for n := range i.Shares {
			i.Shares[n].Path = names.path(i.Shares[n].Path)
		}
		inspections = append(inspections, i)
	}
	return inspections, err
}

func (s Source) settings() ([]config.Setting, error) {
	layers, err := config.Layers(s.Config)
	if err != nil {
		return nil, err
	}
	return config.Settings(layers)
}
