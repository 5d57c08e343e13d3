package config

import (
	"fmt"
	"strings"
)

// comments say what each setting and section is for.
var comments = map[string]string{
	"driver": "The VMM: auto, krun or qemu. auto is krun where it can run, otherwise qemu.",
	"kit":    "The directory of msb-krun, the guest's kernel and its image. Default: ../lib/msb beside the shim.",

	"vm":                 "VMs of containers and pods without limits of their own.",
	"vm.cpus":            "Virtual processors; bounded by the host's.",
	"vm.memory":          "RAM, such as 512MiB or 2GiB.",
	"vm.return_memory":   "What a guest has freed is the host's again.",
	"vm.boot_timeout":    "How long a guest may take to answer; then the create fails, with the console's last lines.",
	"vm.pod_annotations": "Whether a pod's annotations size its VM under the Sandbox API.",

	"krun":         "The driver krun.",
	"krun.library": "The path of libkrun, as msb builds it. Default: the kit's libkrun.so.1.",

	"qemu":           "The driver qemu.",
	"qemu.path":      "The path of QEMU. Default: qemu-system-x86_64 in PATH.",
	"qemu.virtiofsd": "The path of virtiofsd. Default: the kit's, or else the distribution's.",

	"images":       "Root file systems that come as files.",
	"images.mount": "Who mounts them: guest, or host for containerd and the host's kernel.",

	"spare":       "VMs that boot before they are needed.",
	"spare.count": "How many of the size that was used last are kept ready. 0: none.",
	"spare.max":   "How many there are at most, of all sizes.",
	"spare.idle":  "How long one waits to be used before it ends.",

	"tracing":          "Spans of OpenTelemetry: docs/operations.md, Traces.",
	"tracing.endpoint": "An OTLP collector, such as http://127.0.0.1:4318, or off. Default: what OTEL_EXPORTER_OTLP_ENDPOINT names in containerd's environment.",

	"tracing.certificate":        "A file with the authorities, in PEM, that may vouch for an https collector. Default: the host's.",
	"tracing.client_certificate": "A file with the certificate, in PEM, that an https collector is shown if it asks for one.",
	"tracing.client_key":         "The file with that certificate's key. Default: the certificate's file.",
	"tracing.headers_file":       "A file with headers for the collector, each on a line, such as Authorization: Bearer TOKEN.",

	"compat":                 "For clients that ask for what a VM does not have.",
	"compat.host_namespaces": "A PID, IPC or UTS namespace of the host: refuse, or vm for one of the VM's.",

	"log":       "What a shim logs to containerd's log: docs/configuration.md, Reading the log.",
	"log.level": "The least that is logged: trace, debug, info, warn or error. Default: debug where containerd has its debug level, otherwise info.",

	"debug":       "For finding a mistake.",
	"debug.shell": "Whether root may run programs in a guest, outside of its containers (msbctl shell).",
}

// Commented is the default configuration as a file that says what each setting is for. A
// setting whose default depends on the host is in it as a comment.
func Commented() string {
	var b strings.Builder
	b.WriteString("# The configuration of msb. All settings are here with their defaults.\n\n")
	section := ""
	for i, setting := range flatten(Default()) {
		path := keys()[i].path
		last := len(path) - 1
		if now := strings.Join(path[:last], "."); now != section {
			section = now
			fmt.Fprintf(&b, "\n%s[%s]\n", comment(section), section)
		}
		b.WriteString(comment(setting.Key))
		if setting.Value == "" {
			fmt.Fprintf(&b, "# %s = \"\"\n", path[last])
		} else {
			fmt.Fprintf(&b, "%s = %s\n", path[last], setting.Value)
		}
	}
	return b.String()
}

func comment(name string) string {
	if comments[name] == "" {
		return ""
	}
	return "# " + comments[name] + "\n"
}
