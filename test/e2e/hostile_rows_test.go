package e2e

import "time"

// A stage of a container's life at which a guest is stuck.
type stage string

const (
	inCreate stage = "create"
	inStart  stage = "start"
)

// A hostileRow is a guest whose agent does what words say; see test/hostile/agent.
type hostileRow struct {
	name  string
	words string // none: the product's agent
	// onDisk gives the words to the agent before its first container.
	onDisk bool
	// stuck is where the container's start does not go on.
	stuck stage
	// goesOn is how long the agent does it before the container is killed.
	goesOn time.Duration
	// client does something of its own meanwhile.
	client func(*victim)
	// socket mounts one of the host's, whose connections nobody reads.
	socket bool
	// hostNetwork gives the container the host's network, of which its agent is told.
	hostNetwork bool
	// lengthy says that the call which hangs has two minutes: its client leaves before.
	lengthy bool
	// when is it tried.
	when occasion
}

// An occasion is when a guest is tried: all of them take a VM each, and the fake machine of
// the unit tests tries what they do, too.
type occasion int

const (
	onRequest  occasion = iota // with MSB_LONG, under qemu
	underQEMU                  // by each run there
	everywhere                 // by each run under each driver: the device that carries it is the VMM's
)

// attacks are the words about what the agent does by itself, which it tells on its console.
var attacks = []string{"event", "noise", "deaf", "mux", "ttrpc", "headers", "names", "sockets", "console", "end"}

// alone are guests beside which there is no other but the good one: their figure is about
// what a client gets that asks for all.
var alone = []hostileRow{
	{name: "never answers Stats", words: "hang:Stats", client: (*victim).allMetrics, when: underQEMU},
}

// silent are guests that do less than they should. Many live side by side, because they
// take no processor.
var silent = []hostileRow{
	{name: "never answers State", words: "hang:State", when: underQEMU},
	{name: "never answers CloseStdio", words: "hang:CloseStdio", when: underQEMU},
	{name: "never answers RemoveBundle", words: "hang:RemoveBundle"},
	{name: "never answers Kill", words: "hang:Kill", when: everywhere},
	{name: "kills nobody and says so", words: "lie:Kill"},
	{name: "never answers Delete", words: "hang:Delete", when: underQEMU},
	{name: "refuses Delete", words: "refuse:Delete", when: underQEMU},
	{name: "refuses Kill", words: "refuse:Kill"},
	{name: "refuses RemoveBundle, CloseStdio", words: "refuse:RemoveBundle refuse:CloseStdio"},
	{name: "deletes nothing and says so", words: "lie:Delete lie:RemoveBundle lie:CloseStdio", when: underQEMU},
	{name: "deletes and never says so", words: "silent:Delete", when: underQEMU},
	{name: "tells no exit", words: "mute:exit"},
	{name: "tells nothing", words: "mute:"},
	{name: "tells an exit of its init, which runs on", words: "event:exit,1", when: underQEMU},
	{name: "tells such an exit, and never answers Delete, Kill, State", words: "event:exit,1 hang:Delete hang:Kill hang:State"},
	{name: "tells an exit of the year 146 billion", words: "event:exit-ages,1"},
	{name: "tells that its task is deleted, which runs on", words: "event:delete,1"},

	{name: "never answers any call of a client", words: "hang:Exec hang:Pids hang:Pause hang:Resume hang:Update hang:CloseIO hang:ResizePty hang:Stats", client: (*victim).calls, when: underQEMU},
	{name: "never answers Start of an exec", words: "hang:exec.Start", client: (*victim).calls, lengthy: true},
	{name: "answers all calls late", words: "late:*", client: (*victim).calls},

	{name: "never answers the first call", words: "hang:Guest/Start", onDisk: true, stuck: inCreate},
	{name: "never answers SetNetwork", words: "hang:SetNetwork", onDisk: true, stuck: inCreate, hostNetwork: true},
	{name: "never answers CreateBundle", words: "hang:CreateBundle", stuck: inCreate},
	{name: "never answers anything", words: "hang:*", stuck: inCreate},
	{name: "never answers Create", words: "hang:Task/Create", stuck: inCreate, when: underQEMU},
	{name: "never answers Start", words: "hang:Task/Start", stuck: inStart, when: underQEMU},
	{name: "starts and never says so", words: "silent:Task/Start", stuck: inStart, when: underQEMU},

	{name: "reads nothing any more", words: "deaf", client: (*victim).calls, when: underQEMU},
	{name: "half of a frame of streams", words: "mux:half", client: (*victim).calls, when: underQEMU},
	{name: "half of a frame of ttrpc", words: "ttrpc:half", client: (*victim).calls},
	{name: "a frame of streams that is none", words: "mux:kind"},
	{name: "more than a stream's window", words: "mux:overrun"},
	{name: "more credit than a number holds", words: "mux:credit"},
	{name: "resets the stream of ttrpc", words: "mux:reset"},
	{name: "a frame of ttrpc of 4 GiB", words: "ttrpc:length"},
	{name: "its agent ends", words: "end:agent", when: underQEMU},
	{name: "its machine ends", words: "end:machine"},
}

// flood is how long a guest does what it does as fast as it can.
const flood = 8 * time.Second

// greedy are guests that have the shim keep or do much.
var greedy = []hostileRow{
	{name: "frames of no kind, and reads nothing", words: "noise", goesOn: flood, when: everywhere},
	{name: "frames of no kind, and reads", words: "noise:read", goesOn: flood},
	{name: "data on streams that are not open", words: "mux:unknown", goesOn: flood},
	{name: "opens streams as fast as it can", words: "mux:unopened", goesOn: flood},
	{name: "opens and closes streams", words: "mux:churn", goesOn: flood},
	{name: "a frame of streams longer than any", words: "mux:long", goesOn: flood},
	{name: "15000 streams without a header", words: "headers:15000", goesOn: 20 * time.Second, when: underQEMU},
	{name: "15000 streams for unknown sockets", words: "names:15000", goesOn: 20 * time.Second},
	{name: "1000 sockets whose host end does not read", words: "sockets:1000", goesOn: flood, socket: true, when: underQEMU},
	{name: "data on streams of ttrpc that are open", words: "ttrpc:events", goesOn: flood},
	{name: "answers Stats with 3 MiB again and again", words: "huge:Stats", goesOn: flood, client: (*victim).manyMetrics, when: underQEMU},
}

// loud are guests that have the shim say much, to containerd or into its log.
var loud = []hostileRow{
	{name: "event types of 1 MiB", words: "event:types", goesOn: flood, when: underQEMU},
	{name: "names of 1 MiB in events", words: "event:names", goesOn: flood},
	{name: "events that are none", words: "event:garbage", goesOn: flood},
	{name: "50000 times out of memory", words: "event:oom,50000", goesOn: flood, when: underQEMU},
	{name: "events of processes nobody started", words: "event:strange", goesOn: flood, when: underQEMU},
	{name: "pauses and resumes by itself", words: "event:paused", goesOn: flood},
	{name: "exits again and again", words: "event:exit", goesOn: flood, when: underQEMU},
	{name: "answers on streams of ttrpc nobody opened", words: "ttrpc:streams", goesOn: flood, when: underQEMU},
	{name: "data on streams of ttrpc nobody opened", words: "ttrpc:data", goesOn: flood},
	{name: "calls of the guest to the host", words: "ttrpc:requests", goesOn: flood, when: underQEMU},
	{name: "frames of ttrpc of no type", words: "ttrpc:types", goesOn: flood},
	{name: "refuses calls with 1 MiB of text", words: "shout:Exec shout:Pids shout:Pause shout:Resume shout:Update shout:CloseIO shout:ResizePty shout:Stats shout:State shout:Kill shout:Delete", client: (*victim).calls},
	{name: "answers with another type", words: "swap:Exec swap:Pids swap:Pause swap:Resume swap:Update swap:CloseIO swap:ResizePty swap:Stats swap:State swap:Kill swap:Delete swap:RemoveBundle swap:CloseStdio", client: (*victim).calls},
	{name: "answers with 3 MiB", words: "huge:Exec huge:Pids huge:Pause huge:Resume huge:Update huge:CloseIO huge:ResizePty huge:Stats huge:State huge:Kill huge:Delete huge:RemoveBundle huge:CloseStdio", client: (*victim).calls, when: underQEMU},
	{name: "floods its console with lines", words: "console", goesOn: flood, when: everywhere},
	{name: "floods its console with one line", words: "console:line", goesOn: flood},
}
