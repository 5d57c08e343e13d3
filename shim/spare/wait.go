package spare

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// spareEnv marks the environment of a spare. Its value is an order.
const spareEnv = "MSB_SHIM_SPARE"

// An order says which spare is to be made.
type order struct {
	Size spec.Size
	// Address is containerd's, Events that of its ttrpc server.
	Address, Events string
}

// Descriptors holds the numbers of a daemon's descriptors. A spare keeps the first and the
// last of them for the files of a start, and has been given the second.
type Descriptors struct{ Socket, Mounts, Released int }

// IsSpare tells whether this process is a spare, which a Maker has started, and no start was
// handed over to it yet.
func IsSpare() bool { return os.Getenv(spareEnv) != "" }

// A waiter is a spare that has booted.
type waiter struct {
	order
	place    *place
	pool     Pool
	options  typeurl.Any
	idle     time.Duration
	vm       *sandbox.Spare
	listener *net.UnixListener
	numbers  Descriptors
	mounts   mountns.Namespace
}

// Wait is the life of a spare: it boots a VM, and returns it when a start was handed over.
// This process has the arguments, environment, working directory and descriptors of a daemon
// then. It returns nil if nobody has needed the spare.
func Wait(numbers Descriptors, mounts mountns.Namespace) (*sandbox.Spare, error) {
	// What ends a process ends a spare in order, at any moment.
	ctx, ignore := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer ignore()
	w, err := wait(ctx, numbers, mounts)
	if err := report(numbers.Released, err); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	start, err := w.serve(ctx)
	if err != nil || start == nil {
		return nil, errors.Join(err, w.vm.Close())
	}
	if err := w.become(*start); err != nil {
		return nil, errors.Join(err, w.vm.Close())
	}
	return w.vm, nil
}

// wait makes a spare that waits.
func wait(ctx context.Context, numbers Descriptors, mounts mountns.Namespace) (_ *waiter, err error) {
	for _, fd := range []int{numbers.Socket, numbers.Mounts, numbers.Released} {
		unix.CloseOnExec(fd)
	}
	w := &waiter{numbers: numbers, mounts: mounts}
	if err := json.Unmarshal([]byte(os.Getenv(spareEnv)), &w.order); err != nil {
		return nil, fmt.Errorf("%s: %w", spareEnv, err)
	}
	if err := mountns.Isolate(); err != nil {
		return nil, err
	}
	if w.options, err = readOptions(numbers.Socket); err != nil {
		return nil, err
	}
	configuration, err := config.Load(w.options)
	if err != nil {
		return nil, err
	}
	w.idle = time.Duration(configuration.Spare.Idle)
	if w.pool, err = Open(configuration, w.Address, mounts); err != nil {
		return nil, err
	}
	if w.place, err = w.pool.reserve(w.Size); err != nil {
		return nil, err
	}
	platform := sandbox.PlatformOf(configuration)
	platform.Mounts = mounts
	if w.vm, err = sandbox.BootSpare(ctx, w.place.dir, w.place.remove, platform, w.Size); err != nil {
		return nil, err
	}
	w.listener, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(w.place.dir, socketFile)})
	if err != nil {
		return nil, errors.Join(err, w.vm.Close())
	}
	return w, nil
}

// writeOptions writes the runtime's options for a spare: their length, and then they.
func writeOptions(out io.Writer, options *anypb.Any) error {
	data, err := proto.Marshal(options)
	if err != nil {
		return err
	}
	_, err = out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

// readOptions reads the runtime's options from a descriptor, whose number stays taken. No options
// are no bytes, which is also what a shim leaves that has ended before it wrote any: so the length
// tells.
func readOptions(fd int) (typeurl.Any, error) {
	data, err := io.ReadAll(reader(fd))
	if err != nil {
		return nil, err
	}
	const length = 4
	if len(data) < length || uint64(len(data)-length) != uint64(binary.BigEndian.Uint32(data)) {
		return nil, fmt.Errorf("the shim that has ordered a spare has ended before all of the runtime's options were written: %w", errdefs.ErrAborted)
	}
	data = data[length:]
	options := new(anypb.Any)
	if err := proto.Unmarshal(data, options); err != nil {
		return nil, fmt.Errorf("the runtime's options: %w", err)
	}
	return options, keep(fd)
}

// A reader reads from a descriptor that is not this package's to close.
type reader int

func (r reader) Read(p []byte) (int, error) {
	n, err := rawcall.Retry(func() (int, error) { return unix.Read(int(r), p) })
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// keep closes a descriptor and keeps its number taken.
func keep(fd int) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	return unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC)
}

// report tells who has started the spare that it waits, or why it does not; and if that one has
// ended, as the shim of a short container does, the host's log.
func report(fd int, failed error) error {
	if failed != nil && !errors.Is(failed, errEnough) {
		if _, err := unix.Write(fd, []byte(failed.Error())); err != nil {
			tellHost("no spare VM waits: " + failed.Error())
		}
	}
	return keep(fd)
}

// hostLog is where the host takes lines of its log (syslog(3)).
var hostLog = "/dev/log"

// tellHost writes a warning of this daemon to the host's log, in the form of RFC 3164, if there is
// one that takes it. It is for a process that has no other log.
func tellHost(text string) {
	const daemon, warning = 3 << 3, 4
	conn, err := net.DialTimeout("unixgram", hostLog, time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return
	}
	_, _ = fmt.Fprintf(conn, "<%d>%s[%d]: %s", daemon|warning, filepath.Base(os.Args[0]), os.Getpid(), strings.ReplaceAll(text, "\n", "; "))
}

// lookAround is how often a spare finds out whether it is of use yet.
const lookAround = time.Minute

// serve waits for a start. It returns nil when the spare is of no use any more, and when ctx ends.
func (w *waiter) serve(ctx context.Context) (*Start, error) {
	events, err := net.Dial("unix", w.Events)
	if err != nil {
		return nil, fmt.Errorf("containerd does not answer: %w", err)
	}
	defer events.Close()
	over := make(chan struct{}, 1)
	go func() { // containerd says nothing here, and ends the connection when it ends
		_, _ = events.Read(make([]byte, 1))
		over <- struct{}{}
	}()
	starts := make(chan *Start)
	go w.accept(starts)
	idle, look := time.NewTimer(w.idle), time.NewTicker(lookAround)
	defer idle.Stop()
	defer look.Stop()
	for {
		select {
		case start := <-starts:
			return start, nil
		case <-w.vm.Done():
			tellHost("the VM of a spare that waited has ended")
		case <-over:
		case <-ctx.Done():
		case <-idle.C:
		case <-look.C:
			if w.isOfUse() {
				continue
			}
		}
		return w.giveUp(starts), nil
	}
}

// giveUp is for a spare that is of no use any more. A start that came in time is served all
// the same.
func (w *waiter) giveUp(starts <-chan *Start) *Start {
	_ = w.listener.Close()
	start, ok := <-starts
	if !ok {
		return nil
	}
	return start
}

// isOfUse tells whether a spare would be made so now, and there is memory for its like.
func (w *waiter) isOfUse() bool {
	configuration, err := config.Load(w.options)
	if err != nil {
		return false
	}
	now, err := Open(configuration, w.Address, w.mounts)
	return err == nil && now == w.pool && hasMemory(w.Size.Memory) && w.place.waits()
}

// accept takes the first start that is whole, answers it, and ends. The channel is closed
// when there will be none.
func (w *waiter) accept(starts chan<- *Start) {
	defer close(starts)
	for {
		conn, err := w.listener.AcceptUnix()
		if err != nil {
			return
		}
		start, err := answer(conn, w.place)
		if err != nil {
			continue
		}
		// Nobody else is to come here: what has connected goes to another spare.
		_ = w.listener.Close()
		starts <- &start
		return
	}
}

// answer takes a start from a connection, and accepts it if it is one and nobody has claimed
// the place before.
func answer(conn *net.UnixConn, place *place) (start Start, err error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return start, err
	}
	if err := checkPeer(conn); err != nil {
		return start, err
	}
	start, err = receive(conn)
	if err != nil {
		_, _ = conn.Write([]byte(err.Error()))
		return start, err
	}
	if err := claim(place.dir); err != nil {
		start.close()
		_, _ = conn.Write([]byte("this spare ends"))
		return start, err
	}
	if _, err := conn.Write([]byte(accepted)); err != nil {
		start.close()
		return start, errors.Join(err, place.offer())
	}
	return start, nil
}

// become makes this process the daemon of a start.
func (w *waiter) become(start Start) error {
	defer start.close()
	for fd, file := range map[int]*os.File{w.numbers.Socket: start.Socket, w.numbers.Released: start.Released} {
		if err := unix.Dup3(int(file.Fd()), fd, unix.O_CLOEXEC); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	if err := os.Chdir(start.Dir); err != nil {
		return err
	}
	if err := renice(os.Getpid(), start.Nice); err != nil {
		return err
	}
	program := strings.Clone(os.Args[0])
	setTitle(start.Args)
	os.Args = append([]string{program}, start.Args...)
	os.Clearenv()
	for _, variable := range start.Env {
		name, value, _ := strings.Cut(variable, "=")
		if name == "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}
