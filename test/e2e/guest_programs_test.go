package e2e

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// wireguard joins the two VMs: each knows the other's key.
func wireguard(t *testing.T, g *guests) {
	sides := []struct{ needs, underlay, own, other string }{
		{"NET_ADMIN", guestPrivilegedAddress, "10.6.0.1", "10.6.0.2"},
		{privileged, guestPlainAddress, "10.6.0.2", "10.6.0.1"},
	}
	var keys []string
	for _, side := range sides {
		keys = append(keys, g.run(t, side.needs, `
			umask 077
			wg genkey >/tmp/key
			ip link add wg0 type wireguard
			ip address add `+side.own+`/24 dev wg0
			wg set wg0 listen-port 51820 private-key /tmp/key
			ip link set wg0 up
			wg pubkey </tmp/key`))
	}
	for i, side := range sides {
		g.run(t, side.needs, "wg set wg0 peer "+keys[1-i]+" allowed-ips "+side.other+"/32 endpoint "+side.underlay+":51820")
	}
	g.run(t, sides[0].needs, "/bin/ping -c 1 -W 5 "+sides[0].other+" || /bin/ping -c 2 -W 60 "+sides[0].other)
	for _, side := range sides {
		g.run(t, side.needs, "ip link del wg0")
	}
}

// groupsForOthers readies the container's control group for others below it. A group with controllers
// for others has no processes itself: those that are in it go into one below, as the entry point of
// Docker's own image does it.
const groupsForOthers = `
		cd /sys/fs/cgroup
		mkdir -p init
		for pid in $(cat cgroup.procs); do echo $pid >init/cgroup.procs || [ ! -e /proc/$pid ]; done 2>/dev/null
		sed 's/[^ ]*/+&/g' cgroup.controllers >cgroup.subtree_control`

// dockerInContainer runs an engine and a container of its own. containerd is there first: one that
// dockerd starts itself has 15 seconds, which a slow machine may not keep.
func dockerInContainer(t *testing.T, g *guests) {
	g.run(t, privileged, groupsForOthers+`
		mkdir -p /tmp/bin
		ln -sf /usr/sbin/iptables-legacy /tmp/bin/iptables
		ln -sf /usr/sbin/ip6tables-legacy /tmp/bin/ip6tables
		export PATH=/tmp/bin:/docker/usr/bin:/docker/usr/sbin:$PATH
		socket=/run/containerd/containerd.sock
		containerd --address $socket --root /var/lib/docker/containerd --state /run/containerd >/tmp/containerd.log 2>&1 &
		trap 'status=$?; [ $status = 0 ] || tail -n 30 /tmp/containerd.log /tmp/dockerd.log; kill $(jobs -p); wait; exit $status' EXIT
		until [ -S $socket ]; do kill -0 %1; sleep 0.2; done
		dockerd --containerd $socket --iptables=true --storage-driver overlay2 >/tmp/dockerd.log 2>&1 &
		until docker version >/dev/null 2>&1; do kill -0 %2; sleep 0.2; done
		docker load -i /images/busybox.tar
		[ "$(docker run --rm --memory 64m msb.test/busybox:latest sh -c 'ip addr show eth0 | grep -c 172.17.; cat /sys/fs/cgroup/memory.max')" = $'1\n67108864' ]`)
}

// containerdForPods starts one with its interface for kubelet, and CNI's bridge.
const containerdForPods = `
		mkdir -p /etc /tmp/pods/net
		touch /etc/hosts /etc/resolv.conf # which a pod gets copies of
		cd /tmp/pods
		cat >config.toml <<'END'
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "msb.test/pause:sandbox"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/cni"]
  conf_dir = "/tmp/pods/net"
END
		cat >net/10-pods.conflist <<'END'
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.97.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
		containerd --config config.toml --address /run/pods.sock --root /var/lib/docker/pods --state /run/pods >containerd.log 2>&1 &
		trap 'status=$?; [ $status = 0 ] || tail -n 30 /tmp/pods/containerd.log; pods rmp --force --all || true; kill $(jobs -p); wait; exit $status' EXIT
		pods() { crictl --config /dev/null --runtime-endpoint unix:///run/pods.sock --timeout 10m "$@"; }
		until ctr --address /run/pods.sock version >/dev/null 2>&1; do kill -0 %1; sleep 0.2; done
		ctr --address /run/pods.sock --namespace k8s.io image import /images/busybox.tar`

// podsInContainer does what kubelet does of a pod: it asks containerd's interface for it, which has
// its network made by CNI plugins and its containers by runc.
func podsInContainer(t *testing.T, g *guests) {
	g.run(t, privileged, groupsForOthers+containerdForPods+`
		cat >pod.json <<'END'
{"metadata": {"name": "pod", "namespace": "default", "uid": "1"}, "hostname": "pod", "log_directory": "/tmp/pods", "linux": {"cgroup_parent": "/pods"}}
END
		cat >container.json <<'END'
{"metadata": {"name": "main"}, "image": {"image": "msb.test/busybox:latest"}, "log_path": "log", "linux": {"resources": {"memory_limit_in_bytes": 67108864}},
  "command": ["sh", "-ec", "ping -c 1 -W 60 10.97.0.1 >/dev/null; ip addr show eth0 | grep -o 'inet 10.97.0.'; cat /sys/fs/cgroup/memory.max; hostname"]}
END
		pod=$(pods runp pod.json)
		container=$(pods create "$pod" container.json pod.json)
		pods start "$container"
		until pods inspect "$container" | grep CONTAINER_EXITED; do kill -0 %1; sleep 0.2; done
		pods rmp --force "$pod"
		cat log
		[ "$(cut -d' ' -f4- log)" = $'inet 10.97.0.\n67108864\npod' ]`)
}

// kubeletInContainer runs kubelet by itself: the pod is a file in its directory, and its state and log
// are read from kubelet's own server.
func kubeletInContainer(t *testing.T, g *guests) {
	said := g.run(t, privileged, groupsForOthers+containerdForPods+`
		mkdir -p static
		cat >static/pod.yaml <<'END'
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: main, image: "msb.test/busybox:latest", imagePullPolicy: Never, command: [sh, -ec, "ip addr show eth0 | grep -o 'inet 10.97.0.'; hostname; sleep 1000000"]}
END
		cat >kubelet.yaml <<'END'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: /tmp/pods/static
podLogsDir: /tmp/pods/logs
address: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/pods.sock
failSwapOn: false
makeIPTablesUtilChains: false
volumePluginDir: /tmp/pods/plugins
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
END
		/kubernetes/kubelet --config kubelet.yaml --root-dir /var/lib/docker/kubelet --cert-dir /tmp/pods/certificates --hostname-override node --node-ip `+guestPrivilegedAddress+` >kubelet.log 2>&1 &
		trap 'status=$?; [ $status = 0 ] || tail -n 30 /tmp/pods/kubelet.log; kill %2 || true; wait %2 || true; pods rmp --force --all || true; kill $(jobs -p); wait; exit $status' EXIT
		says() { curl --silent --insecure "https://127.0.0.1:10250/$1"; }
		until says pods >running 2>&1 && grep -om1 '"phase":"Running"' running; do kill -0 %2; sleep 1; done
		until [ "$(says containerLogs/default/pod-node/main | tee told)" = $'inet 10.97.0.\npod-node' ]; do kill -0 %2; sleep 1; done
		cat told`)
	t.Log(said)
}

// nodeInContainer runs hack/kubernetes in a container of its own, as on a machine: a control plane and
// kubelet, which runs a pod that is asked for with kubectl.
func nodeInContainer(t *testing.T, _ *guests) {
	hack, err := filepath.Abs(filepath.Join("..", "..", "hack"))
	if err != nil {
		t.Fatal(err)
	}
	mounts := append(programsOfTheHost(t), bind(hack, "/msb/hack", "ro"),
		bind(filepath.Join(host.Output, "images", "busybox.tar"), "/msb/_output/images/busybox.tar", "ro"))
	for _, dir := range []string{"cni", "kubernetes", "tools"} {
		mounts = append(mounts, bind(filepath.Join(host.Output, dir), "/msb/_output/"+dir, "ro", "x-msb.sockets=off"))
	}
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithMounts(mounts), oci.WithMemoryLimit(3 << 30),
		oci.WithPrivileged, oci.WithHostDevices, oci.WithAllDevicesAllowed, oci.WithAddedCapabilities([]string{"CAP_SYS_RESOURCE"}),
	}}, sleeper...)
	var out harness.Buffer
	process, exit := c.startExec(cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out)), nil, "/usr/bin/bash", "-c", prelude+groupsForOthers+`
		PATH=$PATH:/bin # Debian's awk is a link into /etc
		mkdir -p /opt
		cat >/tmp/pod <<'END'
set -eu
kubectl run pod --image msb.test/busybox:latest --image-pull-policy Never --restart Never -- sh -c 'echo "$(hostname) says: $(ip addr show eth0 | grep -o "inet 10.97.0.")"; sleep 1000000'
until kubectl wait --for 'jsonpath={.status.phase}=Running' pod/pod --timeout 2m; do kubectl get pods,events >&2; done
kubectl get nodes,pods -o wide
kubectl logs pod
END
		NODE_PATIENCE=900 /msb/hack/kubernetes bash /tmp/pod`)
	// Each of these may take minutes where the guest is emulated.
	for _, line := range []string{"kube-apiserver is ready after ", "kubelet is ready after ", "==> Kubernetes v", "pod/pod condition met", "pod says: inet 10.97.0.\n"} {
		if !harness.Eventually(func() bool { return strings.Contains(out.String(), line) || len(exit) > 0 }) {
			t.Errorf("no %q in %v", line, harness.Patience)
			if err := process.Kill(c.ctx, unix.SIGKILL); err != nil {
				t.Error(err)
			}
			break
		}
	}
	code := await(t, exit)
	if _, err := process.Delete(c.ctx); err != nil {
		t.Error(err)
	}
	if code != 0 || !strings.HasSuffix(out.String(), "pod says: inet 10.97.0.\n") {
		t.Errorf("exit code %d", code)
	}
	t.Log(out.String())
}

// systemd boots in a container of its own: it has to be the first process. Its basic units are
// enough: what else there is depends on what the host has.
func systemd(t *testing.T, _ *guests) {
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithMounts(programsOfTheHost(t)), oci.WithPrivileged, oci.WithHostDevices, oci.WithAllDevicesAllowed, oci.WithEnv([]string{"container=containerd"}),
	}}, "/lib/systemd/systemd", "--unit=basic.target")
	state := c.must("until systemctl is-system-running --wait 2>/dev/null | grep -E 'running|degraded'; do sleep 0.2; done")
	if state != "running" && state != "degraded" {
		t.Errorf("the system is %s", state)
	}
	if got := c.must("systemctl list-units --failed --plain --no-legend; systemd-run --wait --pipe cat /proc/self/cgroup"); !strings.Contains(got, "/system.slice/run-") {
		t.Errorf("a service's group is %q", got)
	}
}
