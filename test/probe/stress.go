package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A stress is what the processors of a machine do at the same time.
type stress struct {
	rounds  int
	dirs    []string // of the file systems that files are in
	barrier *barrier
	area    []byte // memory that all share, a page for each processor
	mu      sync.Mutex
	sum     int          // guarded by mu
	latest  atomic.Int64 // the latest time that a processor has seen, in nanoseconds
}

// stressed ROUNDS DIR ... has each processor fork, fault, write files, wake others and ask for
// the time, and looks at what comes of it. What one processor does to memory the next one has
// to see.
func stressed(args []string) error {
	rounds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	cpus := runtime.NumCPU()
	s := &stress{rounds: rounds, dirs: args[1:], barrier: newBarrier(cpus)}
	if s.area, err = anonymous(cpus * page); err != nil {
		return err
	}
	results := make(chan error)
	works := map[string]func(cpu, cpus int) error{
		"forks": s.forks, "memory": s.memory, "shared memory": s.shared, "files": s.files, "wakes": s.wakes, "clock": s.clock,
	}
	for name, work := range works {
		for cpu := range cpus {
			go func() {
				if err := onProcessor(cpu, func() error { return work(cpu, cpus) }); err != nil {
					results <- fmt.Errorf("%s on processor %d: %s", name, cpu, err)
					return
				}
				results <- nil
			}()
		}
	}
	for range len(works) * cpus {
		if err := <-results; err != nil {
			return err
		}
	}
	if want := cpus * rounds * wakesOfRound; s.sum != want {
		return fmt.Errorf("the processors have counted to %d, not to %d", s.sum, want)
	}
	fmt.Println("ok", cpus)
	return nil
}

// onProcessor does something on one processor, with a thread that ends with it.
func onProcessor(cpu int, do func() error) error {
	runtime.LockOSThread()
	if err := move(cpu); err != nil {
		return err
	}
	return do()
}

// move brings this thread to a processor.
func move(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return os.NewSyscallError("sched_setaffinity", err)
	}
	var got uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&got)), 0, 0); errno != 0 {
		return os.NewSyscallError("getcpu", errno)
	}
	if int(got) != cpu {
		return fmt.Errorf("the thread is on processor %d", got)
	}
	return nil
}

// forks has a shell fork, each child with a copy of its memory that it changes; and starts
// programs.
func (s *stress) forks(_, _ int) error {
	const script = `n=0; text=parent
		while [ $n -lt 20 ]; do
			n=$((n+1)); got=$(text=child$n; echo $text$n); status=0; (exit $n) || status=$?
			[ $got$status$text = child$n$n${n}parent ] || exit 1
		done; exec "$0" uid`
	for range s.rounds {
		if out, err := exec.Command("/bin/sh", "-c", script, os.Args[0]).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// memory maps, fills, protects, drops and unmaps pages, while threads of the same address
// space do so on the other processors.
func (s *stress) memory(cpu, _ int) error {
	const pages = 512
	random := rand.New(rand.NewPCG(uint64(cpu), 1))
	for range s.rounds {
		area, err := anonymous(pages * page)
		if err != nil {
			return err
		}
		for at := 0; at < len(area); at += page {
			area[at] = byte(at / page)
		}
		dropped := random.IntN(pages)
		if err := unix.Madvise(area[dropped*page:(dropped+1)*page], unix.MADV_DONTNEED); err != nil {
			return os.NewSyscallError("madvise", err)
		}
		for at := 0; at < len(area); at += page {
			if want := byte(at / page); area[at] != want && (at/page != dropped || area[at] != 0) {
				return fmt.Errorf("page %d has %d", at/page, area[at])
			}
		}
		if area[dropped*page] != 0 {
			return errors.New("a page that was dropped is there")
		}
		if err := unix.Munmap(area); err != nil {
			return os.NewSyscallError("munmap", err)
		}
	}
	return nil
}

// shared has each processor in turn take the right to write to a page from all of them, when
// all have just written to it: what a processor remembers of the page has to go.
func (s *stress) shared(cpu, cpus int) error {
	zero, err := os.Open("/dev/zero")
	if err != nil {
		return err
	}
	defer zero.Close()
	for round := range s.rounds {
		at := round % cpus * page
		target := s.area[at : at+page]
		target[cpu] = byte(round)
		s.barrier.wait()
		if round%cpus == cpu {
			if err := unix.Mprotect(target, unix.PROT_READ); err != nil {
				return os.NewSyscallError("mprotect", err)
			}
		}
		s.barrier.wait()
		if _, err := unix.Read(int(zero.Fd()), target[cpu:cpu+1]); !errors.Is(err, unix.EFAULT) {
			return fmt.Errorf("a page that may not be written is: %s", name(err))
		}
		if target[cpu] != byte(round) {
			return fmt.Errorf("what was written is %d, not %d", target[cpu], byte(round))
		}
		s.barrier.wait()
		if round%cpus == cpu {
			if err := unix.Mprotect(target, unix.PROT_READ|unix.PROT_WRITE); err != nil {
				return os.NewSyscallError("mprotect", err)
			}
		}
		s.barrier.wait()
	}
	return nil
}

// files writes, renames and reads files, by calls and by a mapping.
func (s *stress) files(cpu, _ int) error {
	random := rand.NewChaCha8([32]byte{byte(cpu)})
	content := make([]byte, 5*page+7)
	for round := range s.rounds {
		_, _ = random.Read(content)
		for _, dir := range s.dirs {
			if err := throughFile(filepath.Join(dir, fmt.Sprintf("stress-%d-%d", cpu, round%3)), content); err != nil {
				return err
			}
		}
	}
	return nil
}

func throughFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	mapped, err := unix.Mmap(int(file.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	read, err := io.ReadAll(file)
	if !bytes.Equal(read, content) || !bytes.Equal(mapped, content) {
		err = errors.Join(err, fmt.Errorf("%s has something else than was written", path))
	}
	return errors.Join(err, unix.Munmap(mapped), os.Remove(path))
}

// wakesOfRound is how often a processor wakes the others in one round.
const wakesOfRound = 10

// wakes counts under one lock, and goes from processor to processor.
func (s *stress) wakes(cpu, cpus int) error {
	for round := range s.rounds {
		if err := move((cpu + round) % cpus); err != nil {
			return err
		}
		for range wakesOfRound {
			s.mu.Lock()
			s.sum++
			unix.Nanosleep(&unix.Timespec{Nsec: 1}, nil) // others wait, in the kernel
			s.mu.Unlock()
		}
	}
	return nil
}

// clock asks for the time, which another processor's is not to be ahead of.
func (s *stress) clock(_, _ int) error {
	for range s.rounds * 1000 {
		before := s.latest.Load()
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return os.NewSyscallError("clock_gettime", err)
		}
		if now.Nano() < before {
			return fmt.Errorf("it is %s earlier than elsewhere", time.Duration(before-now.Nano()))
		}
		s.latest.CompareAndSwap(before, now.Nano())
	}
	return nil
}

// A barrier is passed when all are at it.
type barrier struct {
	mu     sync.Mutex
	passed *sync.Cond
	of, at int // guarded by mu, as is turn
	turn   int
}

func newBarrier(of int) *barrier {
	b := &barrier{of: of}
	b.passed = sync.NewCond(&b.mu)
	return b
}

func (b *barrier) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at++; b.at == b.of {
		b.at, b.turn = 0, b.turn+1
		b.passed.Broadcast()
		return
	}
	for turn := b.turn; turn == b.turn; {
		b.passed.Wait()
	}
}
