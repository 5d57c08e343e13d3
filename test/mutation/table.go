package main

// mutations are those that a test without a VM has to notice. Many are rows of docs/security.md; the
// others were broken by hand when their test was written.
var mutations = []mutation{
	// Calls to the guest.
	{
		"a guest that overruns a budget keeps its VM", "shim/guest/client.go",
		"	c.machine.End(fmt.Errorf(\"the guest did not answer %s within %v: %w\", name, budget, errdefs.ErrUnavailable))\n", "	_ = budget\n",
		"", "TestBudgets",
	},
	{
		"a prompt call has ten times its budget", "shim/guest/client.go",
		"Prompt: 25 * time.Second", "Prompt: 250 * time.Second",
		"shim/task", "TestNeverAnswered|TestKillWithoutEffect",
	},
	{
		"metrics have a minute", "shim/guest/client.go",
		"Stats: time.Second}", "Stats: time.Minute}",
		"", "TestDefaultBudgets",
	},
	{
		"any number of requests for metrics", "shim/guest/client.go",
		"make(chan struct{}, maxStats)", "make(chan struct{}, 1<<20)",
		"", "TestStatsWithoutReader",
	},
	{
		"a guest without metrics is asked again at once", "shim/guest/calls.go",
		"		c.mute.Store(time.Now().Add(muteFor).UnixNano())\n", "",
		"", "TestStats",
	},
	{
		"metrics of any type", "shim/guest/calls.go",
		"kind != metricsType {", "kind != metricsType && kind == \"\" {",
		"", "TestStatsAnswers",
	},
	{
		"metrics as the guest answers them", "shim/guest/calls.go",
		"Value: checked}, nil", "Value: append(checked[:0:0], response.GetStats().GetValue()...)}, nil",
		"", "TestHostileMetrics",
	},
	{
		"metrics of one device twice", "shim/guest/metrics.go",
		"if !good || seen[name] {", "if !good {",
		"", "TestHostileMetrics",
	},
	{
		"metrics of any number of devices", "shim/guest/metrics.go",
		"if len(kept) == maxDevices {", "if len(kept) == maxDevices && false {",
		"", "TestHostileMetrics",
	},
	{
		"pages of any size", "shim/guest/metrics.go",
		"return e.Pagesize, ", "return e.Pagesize, e.Pagesize != \"\" || ",
		"", "TestHostileMetrics",
	},
	{
		"a pressure that is no number", "shim/guest/metrics.go",
		"if math.IsNaN(*share) {", "if math.IsNaN(*share) && false {",
		"", "TestHostileMetrics",
	},
	{
		"a pressure of more than all", "shim/guest/metrics.go",
		"min(max(*share, 0), most)", "max(*share, min(0, most))",
		"", "TestHostileMetrics",
	},
	{
		"a pressure of less than nothing", "shim/guest/metrics.go",
		"min(max(*share, 0), most)", "min(*share, most)",
		"", "TestHostileMetrics",
	},
	{
		"the pressure of all at once", "shim/guest/metrics.go",
		"pressure.GetSome(), pressure.GetFull()}", "pressure.GetSome()}",
		"", "TestHostileMetrics",
	},
	{
		"the pressure of devices", "shim/guest/metrics.go",
		"told.GetMemory().GetPSI(), told.GetIo().GetPSI()}", "told.GetMemory().GetPSI()}",
		"", "TestHostileMetrics",
	},
	{
		"long metrics", "shim/guest/metrics.go",
		"if len(answer) > maxMetrics {", "if len(answer) > maxMetrics && false {",
		"", "TestUnreadableMetrics",
	},
	{
		"a large frame", "shim/guest/frames.go",
		"if h.length() > maxFrame {", "if h.length() > maxFrame && false {",
		"", "TestLargeMessages",
	},
	{
		"a second answer", "shim/guest/frames.go",
		"f.answers > last/2+1+f.followed.Load() {", "f.answers > last/2+1+f.followed.Load() && false {",
		"", "TestCheckStreams|TestViolations|TestCheck",
	},
	{
		"what answers no call", "shim/guest/frames.go",
		"	return fmt.Errorf(\"what answers no call: a message of type %d on stream %d\", h.kind(), h.stream())\n", "	return nil\n",
		"", "TestViolations",
	},
	{
		"a long text of an error", "shim/guest/errors.go",
		"vm.Printable(err.Error(), maxText)", "vm.Printable(err.Error(), 1<<30)",
		"", "TestTexts",
	},
	{
		"nested details of an error", "shim/guest/errors.go",
		"		return errgrpc.ToNative(status.Error(s.Code(), s.Message()))\n", "		_ = s\n		return errgrpc.ToNative(err)\n",
		"", "TestNestedDetails",
	},

	// Events.
	{
		"a queue of events without end", "shim/events/queue.go",
		"if len(q.pending) >= maxPending {", "if len(q.pending) >= maxPending && false {",
		"", "TestQueueIsBounded",
	},
	{
		"OOM as often as the guest likes", "shim/task/exit.go",
		"c.oom.Pass(time.Now(), 1); ok {", "c.oom.Pass(time.Now(), 1); ok || true {",
		"", "TestOutOfMemoryFlood",
	},
	{
		"an exit status that no program has", "shim/task/exit.go",
		"return min(told, statusUnknown)", "return told",
		"", "TestExitStatusOfNoProgram",
	},
	{
		"an exit of the container before, by the same id", "shim/task/exit.go",
		"return p.execID != \"\" || end.pid == 0 || end.pid == c.guestPid", "return true",
		"", "TestExitOfPredecessor",
	},
	{
		"an exit before the answer to its start is dropped", "shim/task/exit.go",
		"		p.early = &end\n", "		_ = end\n",
		"", "TestExitBeforeStartIsAnswered|TestExitBeforeCreateIsAnswered",
	},

	// Kill, delete, and the end.
	{
		"a kill without effect", "shim/task/kill.go",
		"			sb.End(fmt.Errorf(\"the guest did not end container %s within %v of its SIGKILL: %w\", c.id, sb.Budgets().Prompt, errdefs.ErrUnavailable))\n", "",
		"", "TestKillWithoutEffect",
	},
	{
		"a kill that is refused", "shim/task/kill.go",
		"	sb.End(fmt.Errorf(\"the guest did not kill container %s: %w\", c.id, err))\n", "",
		"", "TestKillRefused",
	},
	{
		"a delete that is refused after an exit", "shim/task/delete.go",
		"	sb.End(fmt.Errorf(\"the guest did not delete %s: %w\", c.describe(p), err))\n", "",
		"", "TestExitToldOfWhatRuns",
	},
	{
		"a creation that holds up its deletion", "shim/task/delete.go",
		"		sb.End(fmt.Errorf(\"the guest held up %s: %w\", what, errdefs.ErrUnavailable))\n", "		_ = sb\n",
		"", "TestCreationInPodGivenUp",
	},
	{
		"a kill and a deletion have a budget each", "shim/task/delete.go",
		"max(prompt-used, prompt/3)", "prompt",
		"", "TestKillAndDeleteLate",
	},
	{
		"a pod's members have a day to end", "shim/pod/end.go",
		"		deadline = latest\n", "		deadline = latest.Add(24 * time.Hour)\n",
		"", "TestMembersThatDoNotEnd",
	},
	{
		"a long poststop hook costs a pod its VM", "shim/task/delete.go",
		"if ctx.Err() == nil && !c.left.Load() {", "if ctx.Err() == nil {",
		"", "TestLongPoststop",
	},
	{
		"a hook that fails costs a pod its VM", "shim/task/hooks.go",
		"if c.of.ID == \"\" {", "if c.of.ID != \"none\" {",
		"", "TestFailingPoststartInPod",
	},
	{
		"a pod's members end one after the other", "shim/pod/end.go",
		"		go func() {\n			member.End(ctx)\n			ended <- struct{}{}\n		}()\n", "		member.End(ctx)\n		go func() { ended <- struct{}{} }()\n",
		"", "TestMembersEndAtTheSameTime",
	},
	{
		"output that nobody ends holds up a deletion", "shim/stdio/stdio.go",
		"if moved == last {", "if moved == last && false {",
		"", "TestDrainIsBounded",
	},
	{
		"output that drips holds up a deletion", "shim/stdio/stdio.go",
		"context.WithTimeout(ctx, longest)", "context.WithTimeout(ctx, 1000*longest)",
		"", "TestDrainIsBounded",
	},
	{
		"output is gone that a client opens late", "shim/stdio/stdio.go",
		"defer fifo.finish(&s.unread)", "defer fifo.Close()",
		"", "TestOutputOpenedLate",
	},
	{
		"a process does not wait for its client", "shim/stdio/host.go",
		"context.WithTimeout(ctx, config.OpenedWithin)", "context.WithTimeout(ctx, 0)",
		"", "TestOutputWaitsForClient",
	},
	{
		"a process waits for its client for ever", "shim/stdio/host.go",
		"context.WithTimeout(ctx, config.OpenedWithin)", "context.WithTimeout(ctx, 1000*config.OpenedWithin)",
		"", "TestOutputClientNeverComes",
	},
	{
		"a client reads an end before the output", "shim/stdio/fifo.go",
		"\tdefer writer.Close()\n\tif errors", "\twriter.Close()\n\ttime.Sleep(firstLook)\n\tif errors",
		"", "TestOutputWaitsForClient",
	},
	{
		"a shim gives no process time for its client", "shim/task/process.go",
		"OpenedWithin: s.ClientsTurn", "OpenedWithin: 0",
		"", "TestClientsTurn",
	},
	{
		"a boot without a limit", "shim/sandbox/boot.go",
		"context.WithTimeoutCause(ctx, timeout,", "context.WithTimeoutCause(ctx, 1000*timeout,",
		"", "TestBootTimeout",
	},
	{
		"a shield that has ended leaves its VM", "shim/sandbox/sandbox.go",
		"		s.End(errShieldBroken)\n", "",
		"", "TestShieldBroken",
	},
	{
		"what cannot be hidden any more leaves its VM", "shim/sandbox/sandbox.go",
		"	case err := <-s.Trees.Broken():\n		s.End(err)\n", "	case <-s.Trees.Broken():\n",
		"", "TestVM33NotHidden",
	},

	// The connection.
	{
		"streams that nobody accepts", "vm/mux/session.go",
		"		return s.violation(\"opened more than %d streams that nobody has accepted yet\", s.backlog)\n", "		return nil\n",
		"", "TestViolations",
	},
	{
		"more than a stream has credit for", "vm/mux/stream.go",
		"	case n > s.granted:\n", "	case n > s.granted && n < 0:\n",
		"", "TestViolations",
	},
	{
		"bytes after a stream's end", "vm/mux/stream.go",
		"	case s.atEnd:\n		return nil, nil,", "	case s.atEnd && n < 0:\n		return nil, nil,",
		"", "TestViolations",
	},
	{
		"every stream has a large window", "vm/mux/stream.go",
		"if s.window == Window && s.session.large > 0 {", "if s.window == Window {",
		"", "TestWindowsAreBounded",
	},
	{
		"a guest that does not read", "vm/mux/session.go",
		"SetWriteDeadline(time.Now().Add(s.stall))", "SetWriteDeadline(time.Time{})",
		"", "TestGuestStopsReading",
	},
	{
		"frames without a payload are kept without end", "vm/mux/session.go",
		"if len(s.out)+FrameSize > SendBuffer+FrameSize+maxData+ControlBuffer {", "if len(s.out) < 0 {",
		"", "TestControlFramesAreBounded",
	},
	{
		"a frame of an unknown kind", "vm/mux/session.go",
		"	return s.violation(\"sent a frame of the unknown kind %d\", frame.Kind)\n", "	return nil\n",
		"", "TestViolations",
	},
	{
		"a stream that the host has closed stays", "vm/mux/stream.go",
		"		delete(s.session.streams, s.id)\n		s.session.control(", "		s.session.control(",
		"", "TestClosedStreamsAreForgotten",
	},
	{
		"a guest that asks for the time all the time", "shim/clock/clock.go",
		"gate.Pass(time.Now(), 1); !ok {", "gate.Pass(time.Now(), 1); !ok && false {",
		"", "TestFlood",
	},
	{
		"a stream without a header", "shim/socket/socket.go",
		"stream.SetDeadline(time.Now().Add(HeaderTimeout))", "stream.SetDeadline(time.Time{})",
		"", "TestHeaderTakesTooLong",
	},
	{
		"any number of streams without a header", "shim/socket/socket.go",
		"make(chan struct{}, MaxOpening)", "make(chan struct{}, 1<<16)",
		"", "TestHeaderTakesTooLong",
	},
	{
		"a long header", "guest/api/stream.go",
		"receive(stream, &header, maxHeader)", "receive(stream, &header, 1<<30)",
		"", "TestStreamHeaderBounds",
	},
	{
		"any number of connections to sockets", "shim/socket/socket.go",
		"	case t.opened >= MaxConnections:\n", "	case t.opened >= 1<<20:\n",
		"", "TestLimit",
	},
	{
		"a resolver that was not found", "shim/resolver/resolver.go",
		"if !s.joined || !slices.Contains(s.all(), address) {", "if !s.joined {",
		"", "TestAddresses|TestConnections|TestQueries",
	},
	{
		"any number of queries", "shim/resolver/resolver.go",
		"if *open >= most {", "if *open >= 1000*most {",
		"", "TestFlood",
	},
	{
		"any number of forwarded connections", "shim/network/loopback.go",
		"make(chan struct{}, MaxForwarded)", "make(chan struct{}, 1<<16)",
		"", "TestForwardedClientsThatDoNotRead",
	},

	// Standard streams.
	{
		"a guest's output ends before it has begun", "guest/stdio/fifo.go",
		"	if err := o.awaitWriter(); err != nil {\n		return err\n	}\n", "",
		"", "TestOutputBeforeItsWriter",
	},
	{
		"the agent waits for who writes an output", "guest/stdio/fifo.go",
		"unix.O_RDONLY|unix.O_NONBLOCK", "unix.O_RDONLY",
		"", "TestOpensWithoutWaiting",
	},
	{
		"who ends an input waits for its reader", "guest/stdio/fifo.go",
		"unix.O_RDWR|unix.O_NONBLOCK", "unix.O_WRONLY|unix.O_NONBLOCK",
		"", "TestOpensWithoutWaiting",
	},
	{
		"input before its reader is lost", "guest/stdio/fifo.go",
		"pause := firstLook; !i.hasReader(); pause *= 2 {", "pause := firstLook; false && !i.hasReader(); pause *= 2 {",
		"", "TestInputBeforeItsReader",
	},
	{
		"an end of input before its reader is lost", "guest/stdio/fifo.go",
		"	return i.begin() // who", "	return nil // who",
		"", "TestInputBeforeItsReader",
	},
	{
		"input waits for ever for a reader", "guest/stdio/fifo.go",
		"if pause > lastLook {", "if pause > lastLook && false {",
		"", "TestInputWithoutReader",
	},
	{
		"a host that leaves waits for the reader of its input", "guest/stdio/fifo.go",
		"		case <-i.closed:\n			return os.ErrClosed\n", "",
		"", "TestInputWithoutReader",
	},
	{
		"nobody learns that an input has no reader any more", "guest/stdio/fifo.go",
		"	if i.keeper.Close() != nil {\n", "	if i.keeper == nil {\n",
		"", "TestProcessClosesStdin",
	},
	{
		"an input that is closed has no end", "guest/stdio/fifo.go",
		"	_ = i.keeper.Close() // it may", "	// it may",
		"", "TestCloseInput",
	},
	{
		"each copy makes a buffer", "internal/copying/copying.go",
		"	defer b.pool.Put(buffer)\n", "",
		"", "TestBuffersAreKept",
	},
	{
		"copies at the same time have one buffer", "internal/copying/copying.go",
		"	return &Buffers{sync.Pool{New: func() any {\n		buffer := make([]byte, size)\n", "	buffer := make([]byte, size)\n	return &Buffers{sync.Pool{New: func() any {\n",
		"", "TestBuffersAtOnce",
	},
	{
		"a copy reads as its source likes", "internal/copying/copying.go",
		"onlyReader{from}", "from",
		"", "TestCopies",
	},
	{
		"a copy writes as its sink likes", "internal/copying/copying.go",
		"onlyWriter{to}", "to",
		"", "TestCopies",
	},

	// Who connects to a socket.
	{
		"another user than the container can be", "shim/socket/socket.go",
		"	if err := s.identities.check(peer); err != nil {\n		return nil, err\n	}\n", "",
		"", "TestHostileClaims",
	},
	{
		"the id that changes nothing", "shim/socket/peer.go",
		"if peer.UID == noID || slices.Contains(groups, noID) {", "if false {",
		"", "TestIdentities",
	},
	{
		"a group that is not the process's", "shim/socket/peer.go",
		"return peer.UID == uid && !slices.ContainsFunc(append([]uint32{peer.GID}, peer.Groups...), stranger)", "_ = stranger\n	return peer.UID == uid",
		"", "TestIdentities",
	},
	{
		"the thread that connects keeps its capabilities", "shim/socket/peer.go",
		"	return os.NewSyscallError(\"capset\", unix.Capset(&header, &kept[0]))\n", "	_ = header\n	return nil\n",
		"", "TestPeersThread",
	},
	{
		"who connects is all threads' user", "internal/rawcall/thread.go",
		"	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same)\n	return failure(errno)\n", "	return unix.Setresuid(-1, int(uid), -1)\n",
		"", "TestThread",
	},
	{
		"the host's kernel does not judge who connects", "shim/socket/socket.go",
		"return peer.dial(file, !s.judged || s.identities.rules(stat.Uid, stat.Gid))", "return peer.dial(file, true)",
		"", "TestVM10VM11Directory|TestRules|TestHostileClaims",
	},
	{
		"links are followed below a directory", "shim/socket/socket.go",
		"resolve | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS", "resolve",
		"", "TestVM13PlantedLinks|TestVM13LookFollowsNoLinks",
	},
	{
		"a look for sockets without end", "shim/socket/look.go",
		"	if l.entries >= MaxEntries || len(l.dirs) >= MaxDirectories {\n", "	if l.entries < 0 {\n",
		"", "TestLookIsBounded|TestVM13Bounds",
	},

	// Transfers, and programs of the operator's.
	{
		"a client sends more than it may", "shim/transfer/stream.go",
		"if len(value.Data) > s.granted {", "if len(value.Data) > s.granted && false {",
		"", "TestHostileClient",
	},
	{
		"a frame with nothing in it", "shim/transfer/relay.go",
		"		if len(frame.Data) == 0 {\n", "		if len(frame.Data) < 0 {\n",
		"", "TestHostileGuest",
	},
	{
		"any number of transfers", "shim/transfer/transfer.go",
		"make(chan struct{}, MaxTransfers)", "make(chan struct{}, 1<<16)",
		"", "TestTooMany",
	},
	{
		"a program in the guest without the administrator's leave", "shim/shell/shell.go",
		"	case !sb.AllowsShell():\n", "	case !sb.AllowsShell() && false:\n",
		"", "TestNotAllowed",
	},
	{
		"any number of programs in the guest", "shim/shell/shell.go",
		"make(chan struct{}, maxPrograms)", "make(chan struct{}, 1<<16)",
		"", "TestRefused",
	},
	{
		"a long message of a program's end", "guest/api/stream.go",
		"receive(stream, &exit, maxExit)", "receive(stream, &exit, 1<<30)",
		"shim/shell", "TestHostileGuest",
	},

	// The log, and terminals.
	{
		"a console that floods", "vm/console.go",
		"	dropped, ok := c.gate.Pass(now, 1)\n	if !ok {\n", "	dropped, ok := c.gate.Pass(now, 1)\n	if !ok && false {\n",
		"", "TestConsoleFlood",
	},
	{
		"a long line of a console", "vm/console.go",
		"	c.partial = append(c.partial, p[:min(room, len(p))]...)\n", "	_ = room\n	c.partial = append(c.partial, p...)\n",
		"", "TestConsoleLines|TestConsoleMemory",
	},
	{
		"control characters in texts of the guest", "vm/console.go",
		"		if unicode.IsPrint(r) {\n			return r\n", "		if unicode.IsPrint(r) || true {\n			return r\n",
		"", "TestPrintable",
	},
	{
		"a log that floods", "shim/journal/journal.go",
		"	if !ok {\n		return len(p), nil\n", "	if !ok && false {\n		return len(p), nil\n",
		"", "TestFlood",
	},
	{
		"a long line of the log", "shim/journal/journal.go",
		"if len(line) <= maxLine {", "if len(line) <= maxLine || true {",
		"", "TestLongLine|TestLongField",
	},
	{
		"the last lines are all lines", "shim/journal/tail.go",
		"for t.size > maxTail && len(t.lines) > 1 {", "for t.size > 1000*maxTail && len(t.lines) > 1 {",
		"", "TestTailBound",
	},
	{
		"the console pushes out the shim's own lines", "shim/journal/journal.go",
		"	if !isConsole {\n", "	if !isConsole || true {\n",
		"", "TestKept",
	},
	{
		"any number of readers", "shim/journal/serve.go",
		"make(chan struct{}, maxReaders)", "make(chan struct{}, 1<<16)",
		"", "TestRefusedReaders",
	},
	{
		"a flood passes", "internal/flood/flood.go",
		"	if g.tokens < need {\n", "	if g.tokens < need && false {\n",
		"", "TestGate|TestGateFlood",
	},
	{
		"sequences that are on no list reach a terminal", "ctl/screen/screen.go",
		"	case !known:\n		return \"\"\n", "	case !known:\n		return string(f.pending)\n",
		"", "TestFilter",
	},
	{
		"control characters reach a terminal", "ctl/screen/screen.go",
		"if unicode.IsGraphic(r) || strings.ContainsRune(allowed, r) {", "if unicode.IsGraphic(r) || true {",
		"", "TestFilter",
	},
	{
		"a sequence that never ends hides all that follows", "ctl/screen/screen.go",
		"f.ignored > maxIgnored:", "f.ignored > maxIgnored && false:",
		"", "TestFilter",
	},
	{
		"a terminal stays on the alternate screen", "ctl/screen/screen.go",
		"	if f.alternate {\n", "	if f.alternate && false {\n",
		"", "TestReset",
	},
	{
		"what a terminal acts upon is shown as it is", "ctl/command/output.go",
		"		return strings.Trim(strconv.QuoteRune(r), \"'\")\n", "		_ = strconv.QuoteRune\n		return strings.Trim(raw, \"'\")\n",
		"", "TestVisible|TestHostileLines",
	},
	{
		"names of mounted paths in a report of a bug", "ctl/collect/veil.go",
		"		names[i] = \"~\" + hex.EncodeToString(sum.Sum(nil)[:enough])\n", "		names[i] = name + hex.EncodeToString(sum.Sum(nil)[:0*enough])\n",
		"", "TestSecrets",
	},

	// Shares.
	{
		"device nodes are opened through a share", "shim/share/attach.go",
		"Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSYMFOLLOW}", "Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW}",
		"", "TestDevicesAreNotOpened",
	},
	{
		"links are followed in a share", "shim/share/attach.go",
		"Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSYMFOLLOW}", "Attr_set: unix.MOUNT_ATTR_NODEV}",
		"", "TestLinksAreNotFollowed",
	},
	{
		"read-only is not", "shim/share/attach.go",
		"top := attrStep{attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}}", "top := attrStep{}",
		"", "TestReadOnlyIsServedReadOnly",
	},
	{
		"recursive read-only is not recursive", "shim/share/attach.go",
		"		if a.RecursiveReadOnly {\n			top.flags = unix.AT_RECURSIVE\n		}\n", "",
		"", "TestReadOnlyRecursion",
	},
	{
		"something can be made beside a staged file", "shim/share/tree.go",
		"unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY |", "unix.MS_BIND | unix.MS_REMOUNT |",
		"", "TestFileIsStagedAlone",
	},
	{
		"a tag that is taken", "shim/share/tree.go",
		"		case !errors.Is(err, os.ErrExist):\n", "		default:\n",
		"", "TestFM58TagCollision",
	},
	{
		"a source that is replaced while it is mounted", "shim/share/source.go",
		"	if err == nil && !there {\n", "	if err == nil && !there && false {\n",
		"", "TestFollowSwapped",
	},
	{
		"file systems of the host's kernel below a share", "shim/share/kernel.go",
		"		return !isKernels || !strings.HasPrefix(", "		return true || !isKernels || !strings.HasPrefix(",
		"", "TestDM12KernelFileSystems",
	},
	{
		"a file system of the host's kernel is a source", "shim/share/kernel.go",
		"		if int64(stat.Type) == magic {\n", "		if int64(stat.Type) == magic && false {\n",
		"", "TestDM12KernelSource",
	},
	{
		"what is hidden can be seen until it is covered", "shim/share/tree.go",
		"	if err := t.covers.hide(dir, hidden); err != nil {\n", "	if err := classify(nil); err != nil {\n",
		"", "TestVM30HiddenBefore",
	},
	{
		"what is hidden is not covered again", "shim/share/keeper.go",
		"		again, err := k.covers.again(at, hidden)\n", "		_, again, err := hidden, false, error(nil)\n",
		"", "TestVM31VM33ChangedOnHost",
	},
	{
		"a share that hides something is taken away", "shim/share/tree.go",
		"	if share.hides {\n		return nil\n	}\n", "",
		"", "TestVM30Hidden|TestVM30Attacked|TestVM30AnotherShare",
	},
	{
		"an image that another VM writes to", "shim/share/image.go",
		"how|unix.LOCK_NB); err != nil {", "how|unix.LOCK_NB); err != nil && false {",
		"", "TestAddImage",
	},

	// The shield.
	{
		"an image grows by writes", "shim/shield/server/fixed.go",
		"return data[:min(int64(len(data)), f.size-offset)], 0", "return data, 0",
		"shim/shield", "TestFixed",
	},
	{
		"an image grows by allocation", "shim/shield/server/fixed.go",
		"end < offset || end > uint64(f.size) {", "end < offset {",
		"shim/shield", "TestFixed",
	},
	{
		"an image that was taken away is still open", "shim/shield/server/fixed.go",
		"		_ = held.handle.file.Close()\n	}\n	f.opened = nil\n", "		_ = held\n	}\n",
		"shim/shield", "TestFixedRevoked",
	},
	{
		"attributes without end", "shim/shield/server/metadata.go",
		"	if size > maxAttributes {\n", "	if size > 1000*maxAttributes {\n",
		"shim/shield", "TestAttributesAreKept",
	},
	{
		"privileges stay when the content changes", "shim/shield/server/metadata.go",
		"	if m.privileged == nil || *m.privileged == host.Mtim {\n", "	if m.privileged == nil || true {\n",
		"shim/shield", "TestPrivilegeEndsWithTheContent",
	},
	{
		"a list gives more than it says", "shim/shield/acl/acl.go",
		"	return mode &^ (uint32(^group&7)<<3 | uint32(^other&7))\n", "	return mode &^ (uint32(^group&7)<<3 | uint32(^other&7)) | mode\n",
		"", "TestNarrow",
	},
	{
		"the shield is given what is no regular file", "shim/shield/names.go",
		"	case stat.Mode&unix.S_IFMT != unix.S_IFREG: // a symbolic link among them\n", "	case false:\n",
		"shim/shield", "TestFollow|TestHostileQuestions|TestFollowMounts",
	},
	{
		"a followed file is not read-only any more", "shim/shield/names.go",
		"	if !p.readOnly {\n", "	if !p.readOnly || true {\n",
		"shim/shield", "TestFollowReadOnly",
	},
	{
		"the shield's process is not filtered", "shim/shield/shield.go",
		"		Filter:          true,\n		DataOnly:        true,\n", "",
		"", "TestConfined",
	},
	{
		"the shield's process has all capabilities", "shim/shield/shield.go",
		"		Capabilities:    capabilities,\n", "",
		"", "TestConfined",
	},

	// The jail.
	{
		"the VMM's process is not filtered", "vm/krun/plan.go",
		"		Filter:          true,\n", "",
		"test/hostile", "TestFM50FM54Intruder",
	},
	{
		"the VMM's process has all capabilities", "vm/krun/plan.go",
		"		Capabilities:    capabilities,\n", "",
		"test/hostile", "TestFM50FM54Intruder",
	},
	{
		"the VMM sees other processes", "vm/jail/jail.go",
		"const ownObjects = unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS", "const ownObjects = unix.CLONE_NEWIPC | unix.CLONE_NEWUTS",
		"test/hostile", "TestFM50FM54Intruder",
	},
	{
		"the VMM inherits descriptors", "vm/jail/keeper.go",
		"unix.CloseRange(FirstFile, math.MaxUint32,", "unix.CloseRange(math.MaxUint32, math.MaxUint32,",
		"", "TestNothingBesides",
	},
	{
		"the jail's own directories can be written to", "vm/jail/root.go",
		"readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}", "readOnly := unix.MountAttr{}",
		"", "TestNothingBesides",
	},
	{
		"the guest's disk can be written to", "vm/krun/plan.go",
		"{Source: p.config.Disk, Target: jailDisk, ReadOnly: true}", "{Source: p.config.Disk, Target: jailDisk}",
		"test/hostile", "TestFM50FM54Intruder",
	},
	{
		"device nodes are opened in the jail", "vm/jail/root.go",
		"	if !b.Device {\n", "	if !b.Device && false {\n",
		"", "TestNothingBesides",
	},
	{
		"the VMM dumps core", "vm/jail/jail.go",
		"[]Limit{{Resource: unix.RLIMIT_CORE, Value: 0}}", "[]Limit{}",
		"test/hostile", "TestFM50FM54Intruder",
	},
	{
		"QEMU keeps capabilities", "vm/qemu/args.go",
		"		Capabilities:    []uintptr{},\n", "",
		"", "TestJail",
	},
	{
		"the filter is on one thread", "internal/rawcall/rawcall.go",
		"unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr", "0, uintptr",
		"", "TestFilterAllThreads",
	},
	{
		"QEMU and file servers take what root's processes share", "vm/jail/keeper.go",
		"	if spec.Filter {\n", "	if spec.Filter && false {\n",
		"test/hostile", "TestQEMUIntruder|TestVirtiofsdIntruder",
	},
	{
		"instances of inotify of the host's root", "vm/jail/shared.go",
		"}, inotify...)", "}, inotify[:0]...)",
		"", "TestSharedPolicy",
	},
	{
		"leases on files of the host", "vm/jail/shared.go",
		"{unix.SYS_FCNTL, unix.F_SETLEASE}, ", "",
		"", "TestSharedPolicy",
	},
	{
		"processes of a VM that have the shim's name are not counted", "ctl/survey/process.go",
		"h.program(p.Pid) != program", "p.Name != \"containerd-shim\"",
		"", "TestDescendants",
	},
	{
		"a filter that broke off is installed", "vm/jail/entry/entry.go",
		"	return filter, binary.Read(control, binary.NativeEndian, filter)\n", "	_ = binary.Read(control, binary.NativeEndian, filter)\n	return filter, nil\n",
		"", "TestAnswer",
	},
	{
		"the placeholder has no filter", "vm/jail/jail.go",
		"	return filters[ordinary]()\n", "	return nil, nil\n",
		"", "TestPlaceholder",
	},
	{
		"programs are started in the jail", "vm/jail/filter.go",
		"	\"execve\", \"execveat\",\n", "",
		"", "TestFilter",
	},
	{
		"processes are made in the jail", "vm/jail/filter.go",
		"		only(\"clone\", seccomp.Condition{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD}),\n", "",
		"", "TestFilter",
	},
	{
		"sockets of any kind in the jail", "vm/jail/filter.go",
		"		only(\"socket\", foreignSocket...),\n", "",
		"", "TestFilter",
	},
	{
		"system calls of another architecture", "vm/jail/filter.go",
		"bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)}", "bpf.RetConstant{Val: uint32(seccomp.ActionAllow)}",
		"", "TestFilter",
	},
	{
		"system calls that there will be", "vm/jail/filter.go",
		"Val: firstUnknown, SkipTrue: 1}", "Val: 1 << 30, SkipTrue: 1}",
		"", "TestFilter",
	},
	{
		"the shield changes metadata", "vm/jail/filter.go",
		"		all = append(all, metadata...)\n", "",
		"", "TestFilter",
	},
	{
		"as many descriptors as the host allows", "vm/jail/jail.go",
		"return min(hard, maxDescriptors)", "return hard",
		"", "TestDescriptorLimit",
	},
	{
		"threads without end", "shim/cgroup/limits.go",
		"		Pids:   &specs.LinuxPids{Limit: &tasks},\n", "		Pids:   &specs.LinuxPids{Limit: new(1000 * tasks)},\n",
		"test/hostile", "TestThreads",
	},
	{
		"memory without end", "shim/cgroup/limits.go",
		"guestMemory+vmmAllowance, int64(maxTasks)", "guestMemory+1000*vmmAllowance, int64(maxTasks)",
		"", "TestResources",
	},
	{
		"a container that joins has the placeholder that is installed by then", "shim/sandbox/placeholder.go",
		"		Opened:          program.File,\n", "",
		"", "TestReplacedKit",
	},
	{
		"a file that joins has the shield that is installed by then", "shim/shield/shield.go",
		"spec.Opened, spec.Files, spec.Output = program.File, []", "spec.Files, spec.Output = []",
		"shim/sandbox", "TestReplacedKit",
	},
	{
		"a program of the kit is opened when it is needed", "vm/jail/program.go",
		"	if p.File == nil {\n		return start(p.Path)\n", "	if p.File != nil {\n		return start(p.Path)\n",
		"", "TestOpenedProgram",
	},
	{
		"a program of the kit is executed by the number of what may be closed", "vm/jail/program.go",
		"	err = conn.Control(func(fd uintptr) {", "	err = func(do func(fd uintptr)) error { _ = conn; do(p.File.Fd()); return nil }(func(fd uintptr) {",
		"", "TestProgramClosed",
	},
	{
		"the shield is called by the number of a descriptor", "cmd/msb-shield/main.go",
		"	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // it only helps who looks\n", "	_, _ = unsafe.SliceData(name), unix.PR_SET_NAME\n",
		"shim/shield", "TestName",
	},

	// Spares.
	{
		"anybody hands over a start", "shim/spare/message.go",
		"	if who.Uid != 0 {\n", "	if who.Uid != 0 && false {\n",
		"", "TestPeer",
	},
	{
		"a start with descriptors of any kind", "shim/spare/message.go",
		"		if stat.Mode&unix.S_IFMT != types[i] {\n", "		if stat.Mode&unix.S_IFMT != types[i] && false {\n",
		"", "TestMalformed",
	},
	{
		"a bundle that the spare does not see", "shim/spare/message.go",
		"	if !os.SameFile(bundle, here) {\n", "	if !os.SameFile(bundle, here) && false {\n",
		"", "TestMalformed",
	},
	{
		"who ends a spare does not claim it", "shim/spare/pool.go",
		"func claim(dir string) error { return os.Remove(filepath.Join(dir, waitingFile)) }", "func claim(dir string) error {\n	_ = os.Remove(filepath.Join(dir, waitingFile))\n	return nil\n}",
		"", "TestClaimed",
	},
	{
		"a spare of another configuration", "shim/spare/pool.go",
		"[]any{version.Version, configuration, parameters, address, namespace, files}", "[]any{version.Version, parameters, address, namespace, files}",
		"", "TestKey",
	},
	{
		"a spare of another build", "shim/spare/pool.go",
		"[]any{version.Version, configuration, parameters, address, namespace, files}", "[]any{version.Version, configuration, parameters, address, namespace, len(files)}",
		"", "TestKey",
	},
	{
		"more spares than may be", "shim/spare/pool.go",
		"	return len(same) >= p.limits.Count || len(all) >= p.limits.Max, err\n", "	return len(same) >= p.limits.Count || len(all) < 0, err\n",
		"", "TestReserve",
	},
	{
		"a spare that is confined less than a shim", "shim/spare/fill.go",
		"[]string{\"CapBnd\", \"NoNewPrivs\", \"Seccomp\"}", "[]string{}",
		"", "TestInherit",
	},
	{
		"a spare of half an order", "shim/spare/wait.go",
		"	if len(data) < length || uint64(len(data)-length) != uint64(binary.BigEndian.Uint32(data)) {\n", "	if len(data) < length {\n",
		"", "TestReadOptions",
	},
	{
		"a spare whose VM has died is handed a start", "shim/sandbox/spare.go",
		"s.sandbox.Running() && runs(s.sandbox.Pid()) }", "s.sandbox.Running() || runs(s.sandbox.Pid()) }",
		"", "TestSpareFails|TestSpareDoesNotFit|TestSpare",
	},
	{
		"a spare whose VM was killed a moment ago is handed a start", "shim/sandbox/record.go",
		"!strings.ContainsAny(fields[3-firstField], \"ZXx\")", "len(fields) > 0",
		"", "TestRuns",
	},

	// What all shims count in, and what the guest's directories are.
	{
		"a file of counts that others may write", "shim/count/file.go",
		"	case int(stat.Uid) != os.Geteuid() || stat.Mode&0o077 != 0:\n", "	case false:\n",
		"", "TestNotAFileOfShims",
	},
	{
		"a link in the place of the counts", "shim/count/file.go",
		"flags|unix.O_NOFOLLOW|unix.O_NONBLOCK", "flags|unix.O_NONBLOCK",
		"", "TestNotAFileOfShims",
	},
	{
		"data that could not be written back is not told", "guest/bundle/bundle.go",
		"		err = syncfs(dir)\n", "		_ = syncfs(dir)\n",
		"", "TestRemoveWritebackFails",
	},
	{
		"the files tree stays in sight", "guest/bundle/bundle.go",
		"	defer func() { err = errors.Join(err, os.Remove(stage)) }()\n	if err := mountTree(api.FilesTag, stage); err != nil {\n		return err\n	}\n	defer func() { err = errors.Join(err, unmount.Path(stage)) }()\n",
		"	if err := mountTree(api.FilesTag, stage); err != nil {\n		return err\n	}\n",
		"", "TestCreate",
	},
	{
		"a bundle that is written to while it is removed", "guest/bundle/bundle.go",
		"	err = os.Rename(api.BundlePath(container), filepath.Join(dir, \"bundle\"))\n", "	err = os.RemoveAll(api.BundlePath(container))\n",
		"", "TestRemoveWhileWritten",
	},

	// What containerd has forgotten.
	{
		"a VM that containerd has forgotten is not shown", "ctl/survey/forgotten.go",
		"if s, ok := removedBundle(state, bundle); ok {", "if s, ok := removedBundle(state, bundle); ok && false {",
		"", "TestForgotten",
	},
	{
		"a VM that containerd has forgotten has another name", "ctl/survey/forgotten.go",
		"strings.TrimPrefix(parts[2], \".\")", "parts[2]",
		"", "TestForgotten",
	},
	{
		"a shim that ends is one that containerd has forgotten", "ctl/survey/forgotten.go",
		"return s.VMM != nil || known || hangs(err)", "return known || true",
		"", "TestForgotten",
	},
	{
		"what containerd has forgotten is meant by a name that it knows", "ctl/survey/survey.go",
		" || s.shadowed(sandboxes) {", " {",
		"", "TestForgottenName",
	},
}
