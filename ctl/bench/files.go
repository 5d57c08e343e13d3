package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Files is how much is done to files.
type Files struct {
	// Count is how many small files there are, Rounds how often each job counts.
	Count, Rounds int
}

// A Row is a job in a place, and how long it took, by way and in the order of the rounds.
type Row struct {
	Job   string
	Place Place
	Times [][]time.Duration
}

// A Place is where in a container files are.
type Place string

// The places.
const (
	InRoot  Place = "root file system"
	InMount Place = "mounted directory"
)

type placeDir struct {
	place Place
	dir   string
}

// mountDir is where in a container the directory of the host is.
const mountDir = "/msbctl-bench-mount"

// placeDirs are the directories of places, in a container.
var placeDirs = []placeDir{{InRoot, "/msbctl-bench-root"}, {InMount, mountDir}}

// A job is a script for a POSIX shell, in which $d is the directory and $n the number of small
// files. It takes the programs that it needs from the image. Each job uses what those before it
// have left, and all of them together leave nothing.
type job struct {
	name          string
	needs         []string
	before, after string // are not measured
	do            string
}

const largeMiB = 64

// jobsOf are test/bench's, as far as a shell can do them.
func jobsOf(count int) []job {
	return []job{
		{name: fmt.Sprintf("making %d files of 2 KiB", count), needs: []string{"mkdir", "rm"}, before: `t=0123456789abcdef; while [ ${#t} -lt 2000 ]; do t=$t$t; done; mkdir -p $d`, do: `
			i=0
			while [ $i -lt $n ]; do
				[ $((i % 100)) != 0 ] || mkdir -p $d/many/$((i / 100)) || break
				echo $t >$d/many/$((i / 100))/$i || break
				i=$((i + 1))
			done
			[ $i = $n ]`},
		{name: "finding them by their size", needs: []string{"mkdir", "rm", "find"}, do: `find $d/many -type f -size +100`},
		{name: "reading them", needs: []string{"mkdir", "rm", "cat"}, do: `r=0; for x in $d/many/*; do cat $x/* || r=1; done; [ $r = 0 ]`},
		{
			name: "tar x of them", needs: []string{"mkdir", "rm", "tar"}, before: `tar -C $d -cf $d/many.tar many`,
			do: `mkdir $d/new && tar -C $d/new -xf $d/many.tar`, after: `rm -r $d/new $d/many.tar`,
		},
		{name: "deleting them", needs: []string{"mkdir", "rm"}, do: `rm -r $d/many`},
		{name: fmt.Sprintf("writing %d MiB, and fsync", largeMiB), needs: []string{"mkdir", "rm", "dd"}, before: `mkdir -p $d`, do: fmt.Sprintf(`dd if=/dev/zero of=$d/large bs=65536 count=%d conv=fsync`, largeMiB*16)},
		{name: fmt.Sprintf("reading %d MiB back", largeMiB), needs: []string{"mkdir", "rm", "dd"}, do: `dd if=$d/large of=/dev/null bs=65536`, after: `rm $d/large`},
	}
}

// measure does a job in a directory, and tells how long it took by the host's clock: from the line
// that the shell is given until its answer.
func (j job) measure(ctx context.Context, s *shell, dir string, count int) (took time.Duration, err error) {
	if err := s.do(ctx, fmt.Sprintf("d=%s n=%d; %s", dir, count, orNothing(j.before))); err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := s.do(ctx, j.do); err != nil {
		return 0, err
	}
	took = time.Since(begun)
	return took, s.do(ctx, orNothing(j.after))
}

func orNothing(script string) string {
	if script == "" {
		return ":"
	}
	return script
}

// Files has a shell in a container of each way do jobs to files, in turns. The first round does
// not count. leftOut says of each job that is left out what the image has not got for it.
func (b *Bench) Files(ctx context.Context, files Files) (rows []Row, leftOut []string, err error) {
	dir, err := os.MkdirTemp("", "msbctl-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("a directory to mount: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	shells, end, err := b.shells(ctx, dir)
	defer func() { err = errors.Join(err, end()) }()
	if none := new(noShellError); errors.As(err, none) {
		return nil, []string{"what programs do to files: " + none.Error()}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	jobs, leftOut, err := possible(ctx, shells[0], jobsOf(files.Count))
	if err != nil {
		return nil, nil, b.explain(0, err)
	}
	rows = rowsOf(jobs, len(shells))
	err = inTurns(ctx, len(shells), files.Rounds, func(way, round int) error {
		return b.explain(way, turn(ctx, shells[way], jobs, placeDirs, files.Count, func(row int, took time.Duration) {
			if round > 0 {
				rows[row].Times[way] = append(rows[row].Times[way], took)
			}
		}))
	})
	return rows, leftOut, err
}

// possible are the jobs for which the image has the programs.
func possible(ctx context.Context, s *shell, all []job) (jobs []job, leftOut []string, err error) {
	known := make(map[string]bool)
	for _, j := range all {
		var lacks []string
		for _, program := range j.needs {
			if _, asked := known[program]; !asked {
				if known[program], err = s.has(ctx, program); err != nil {
					return nil, nil, err
				}
			}
			if !known[program] {
				lacks = append(lacks, program)
			}
		}
		if len(lacks) > 0 {
			leftOut = append(leftOut, fmt.Sprintf("%s: the image has no %s", j.name, strings.Join(lacks, ", ")))
			continue
		}
		jobs = append(jobs, j)
	}
	return jobs, leftOut, nil
}

// rowsOf are rows without times: for each job one of each place.
func rowsOf(jobs []job, ways int) (rows []Row) {
	for _, j := range jobs {
		for _, p := range placeDirs {
			rows = append(rows, Row{Job: j.name, Place: p.place, Times: make([][]time.Duration, ways)})
		}
	}
	return rows
}

// turn has a shell do all jobs in all places, and tells the time of each row.
func turn(ctx context.Context, s *shell, jobs []job, places []placeDir, count int, tell func(row int, took time.Duration)) error {
	for i, j := range jobs {
		for k, p := range places {
			took, err := j.measure(ctx, s, p.dir, count)
			if err != nil {
				return fmt.Errorf("%s in the %s: %w", j.name, p.place, err)
			}
			tell(i*len(places)+k, took)
		}
	}
	return nil
}

// noShellError says that the image has no shell.
type noShellError struct{ error }

func (e noShellError) Error() string {
	return fmt.Sprintf("the image has no shell (%v)", e.error)
}

// shells starts a container of each way, whose process is a shell of root's, with a directory of
// its own below dir mounted. end removes what was made, also after an error.
func (b *Bench) shells(ctx context.Context, dir string) (shells []*shell, end func() error, err error) {
	var ends []func() error
	end = func() (err error) {
		for _, one := range slices.Backward(ends) {
			err = errors.Join(err, one())
		}
		return err
	}
	var failed []error
	for way := range b.ways {
		if err := ctx.Err(); err != nil {
			return nil, end, err
		}
		mounted := filepath.Join(dir, strconv.Itoa(way))
		if err := os.Mkdir(mounted, 0o700); err != nil {
			return nil, end, err
		}
		container, err := b.create(ctx, "files-"+strconv.Itoa(way), b.ways[way],
			oci.WithImageConfig(b.image), oci.WithProcessArgs("sh"), oci.WithUIDGID(0, 0), oci.WithProcessCwd("/"),
			oci.WithMounts([]specs.Mount{{Type: "bind", Source: mounted, Destination: mountDir, Options: []string{"rbind", "rw"}}}))
		if err != nil {
			return nil, end, b.explain(way, err)
		}
		ends = append(ends, func() error { return remove(ctx, container) })
		s, err := newStreams()
		if err != nil {
			return nil, end, err
		}
		task, err := run(ctx, container, s.create)
		if err != nil {
			s.close()
			failed = append(failed, b.explain(way, err))
			continue
		}
		ends = append(ends, func() error { s.close(); return kill(ctx, task) })
		if err := s.stopWith(ctx, task); err != nil {
			return nil, end, b.explain(way, err)
		}
		shells = append(shells, s.shell)
	}
	return shells, end, judge(failed, len(b.ways))
}

// judge tells an image that has no shell, which no way finds, from all else that a start fails of.
func judge(failed []error, ways int) error {
	if len(failed) == 0 {
		return nil
	}
	if len(failed) == ways && !slices.ContainsFunc(failed, func(err error) bool { return !isNotFound(err) }) {
		return noShellError{failed[0]}
	}
	return errors.Join(failed...)
}

// isNotFound tells whether a container did not start because it has not got the program. The
// words are those of Go's os/exec, which runc looks for it with; no class comes with them.
func isNotFound(err error) bool { return strings.Contains(err.Error(), exec.ErrNotFound.Error()) }
