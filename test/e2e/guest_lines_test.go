package e2e

import "testing"

// guestAbilities are the lines of docs/guest.md, in its order.
var guestAbilities = []ability{
	{
		name: "iptables-legacy", use: "iptables, Docker's rules", needs: "NET_ADMIN",
		works:  "the legacy form, for IPv4 and IPv6: tables filter, nat, mangle, raw; MASQUERADE, DNAT, REDIRECT, REJECT; addrtype, comment, conntrack with zones, multiport, owner, sctp, statistic",
		script: rulesOfDocker("iptables-legacy", "8100") + rulesOf6,
	},
	{
		name: "iptables-nft", use: "", needs: "NET_ADMIN",
		works:  "the same by nftables",
		script: rulesOfDocker("iptables-nft", "8200"),
	},
	{
		name: "kube-proxy", use: "kube-proxy", needs: "NET_ADMIN",
		works:  "its iptables rules, legacy and by nftables: services with several endpoints, session affinity (recent), marks, `--random-fully`",
		script: rulesOfKubeProxy,
	},
	{
		name: "ipvs", use: "", needs: "NET_ADMIN",
		works: "IPVS of TCP and SCTP, with the schedulers rr, wrr, lc and sh",
		script: `
			ip link add kube-ipvs0 type dummy
			ip address add 10.96.1.1/32 dev kube-ipvs0
			port=8300
			for scheduler in rr wrr lc sh; do
				can "ipvs=tcp $scheduler 10.96.1.1:$port ` + guestPlainAddress + `:$((port + 10))"
				serve $((port + 10)) real
				[ "$(ask 10.96.1.1 $port)" = real ]
				port=$((port + 1))
			done
			can "ipvs=sctp rr 10.96.1.1:$port ` + guestPlainAddress + `:$((port + 10))"
			can "sctp=` + guestPlainAddress + `:$((port + 10)) 10.96.1.1:$port"
			ip link del kube-ipvs0`,
	},
	{
		name: "ipset", use: "", needs: "NET_ADMIN",
		works: "sets of the types hash:ip, hash:ip,port, hash:ip,port,ip, hash:ip,port,net, hash:net, hash:net,port, bitmap:port and list:set, and the match `set`",
		script: `
			can "ipset=closed 127.0.0.9 hash:ip,port hash:ip,port,ip hash:ip,port,net hash:net hash:net,port bitmap:port list:set"
			iptables-legacy -A OUTPUT -p tcp -m set --match-set closed dst -j REJECT --reject-with tcp-reset
			serve 8320 open
			fails try 127.0.0.9 8320
			[ "$(ask 127.0.0.1 8320)" = open ]`,
	},
	{
		name: "istio", use: "Istio's init container, other meshes", needs: "NET_ADMIN",
		works:  "redirection to the proxy by REDIRECT and `owner`, or by TPROXY, marks of connections and `socket`",
		script: rulesOfIstio,
	},
	{
		name: "nft", use: "nft", needs: "NET_ADMIN",
		works:  "families inet, ip, ip6, bridge and netdev (ingress and egress): sets of intervals, maps and verdict maps, fib, ct with zones, masquerade, redirect, dnat, tproxy, reject, limit, quota, numgen, log, queue",
		script: rulesOfNft,
	},
	{
		name: "interfaces", use: "networks of containers", needs: "NET_ADMIN",
		works:  "dummy, veth, bridge with VLANs, vlan, macvlan, macvtap, ipvlan, ifb, VRF; policy routing, routes over several hops",
		script: interfaces,
	},
	{
		name: "tunnels", use: "", needs: "NET_ADMIN",
		works: "VXLAN, Geneve, IPIP, GRE, SIT, IPv6 in IPv6, and IPsec (ESP)",
		script: `
			ip link add t1 type vxlan id 42 remote 192.0.2.1 dstport 4789 dev eth0
			ip link add t2 type geneve id 42 remote 192.0.2.1
			ip link add t3 type ipip local 192.0.2.2 remote 192.0.2.1
			ip link add t4 type gre local 192.0.2.2 remote 192.0.2.1
			ip link add t5 type sit local 192.0.2.2 remote 192.0.2.1
			ip link add t6 type ip6tnl local fd00::1 remote fd00::2
			for i in 1 2 3 4 5 6; do ip link set t$i up; ip link del t$i; done
			ip xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi 1 mode tunnel aead 'rfc4106(gcm(aes))' 0x0001020304050607080910111213141516171819 128
			ip xfrm policy add src 192.0.2.2 dst 192.0.2.1 dir out tmpl src 192.0.2.2 dst 192.0.2.1 proto esp mode tunnel
			ip xfrm policy flush
			ip xfrm state flush`,
	},
	{
		name: "vxlan", use: "flannel, Docker's overlay networks", needs: privileged,
		works: "packets over VXLAN between two network namespaces of one VM",
		script: `
			ip netns add a; ip netns add b
			ip link add under netns a type veth peer name under netns b
			for n in a:1:2 b:2:1; do
				IFS=: read -r name own other <<<"$n"
				ip -n $name address add 192.0.2.$own/24 dev under
				ip -n $name link set under up
				ip -n $name link add over type vxlan id 7 local 192.0.2.$own remote 192.0.2.$other dstport 8472 dev under
				ip -n $name address add 10.5.0.$own/24 dev over
				ip -n $name link set over up
			done
			ip netns exec a /bin/ping -c 1 -W 60 10.5.0.2
			ip netns del a; ip netns del b`,
	},
	{
		name: "wireguard", use: "WireGuard", needs: "NET_ADMIN",
		works: "packets between two VMs",
		test:  wireguard,
	},
	{
		name: "tun", use: "VPNs in user space", needs: "NET_ADMIN",
		works: "tun and tap, with `--device /dev/net/tun`",
		script: `
			for mode in tun tap; do
				ip tuntap add dev u1 mode $mode
				ip link set u1 up
				ip tuntap del dev u1 mode $mode
			done`,
	},
	{
		name: "tc", use: "traffic control", needs: "NET_ADMIN",
		works:  "htb, tbf, prio, sfq, fq, fq_codel, netem, clsact; u32, fw, flower, matchall, bpf; police, mirred, skbedit",
		script: trafficControl,
	},
	{
		name: "sockets", use: "what servers choose",
		works:  "Multipath TCP, TLS in the kernel, SCTP, AF_ALG",
		script: `can mptcp ktls sctp af_alg`,
	},
	{
		name: "bbr", use: "", needs: "NET_ADMIN",
		works:  "BBR",
		script: `can bbr`,
	},
	{
		name: "sandboxes", use: "programs that confine themselves: browsers, build tools",
		works: "Landlock, seccomp filters, user namespaces and what they open: mounts, networks and tables of packet filters of one's own, for any user",
		script: `
			can landlock seccomp
			setpriv --reuid 1000 --regid 1000 --clear-groups unshare --map-root-user --net --mount bash -euc '
				ip link add d1 type dummy
				mount -t tmpfs own /run
				iptables-legacy -A OUTPUT -j ACCEPT'`,
	},
	{
		name: "timens", use: "", needs: "SYS_ADMIN, SYS_TIME",
		works: "time namespaces",
		script: `
			before=$(cut -d. -f1 /proc/uptime)
			after=$(unshare --time --boottime 1000000 --fork cut -d. -f1 /proc/uptime)
			[ $((after - before)) -ge 1000000 ]`,
	},
	{
		name: "calls", use: "databases, runtimes of languages",
		works: "io_uring, userfaultfd (of user mode), message queues of POSIX, perf events of software for own processes",
		script: `
			can io_uring userfaultfd perf
			: >/dev/mqueue/guest
			grep -q QSIZE:0 /dev/mqueue/guest`,
	},
	{
		name: "ia32", use: "32-bit programs",
		works:  "programs for the 386, also those that have 32 bits for the time",
		script: `can ia32`,
	},
	{
		name: "pressure", use: "monitoring",
		works: "pressure figures (PSI)",
		script: `
			for what in cpu memory io; do grep -q '^some avg10=' /proc/pressure/$what; done`,
	},
	{
		name: "config", use: "checks of a kernel, such as Docker's `check-config.sh`",
		works: "the kernel's configuration is `/proc/config.gz`",
		script: `
			zcat /proc/config.gz >/tmp/config
			grep -qx CONFIG_IKCONFIG_PROC=y /tmp/config`,
	},
	{
		name: "bpf", use: "programs of BPF", needs: "BPF, NET_ADMIN",
		works: "programs are loaded, compiled and run; no BTF, so what is compiled once for every kernel (CO-RE) is not",
		test: func(t *testing.T, g *guests) {
			g.run(t, "BPF, NET_ADMIN", `can bpf`)
			g.run(t, "", `fails can bpf`) // whatever a user has no right to, Linux' own default allows
		},
	},
	{
		name: "fanotify", use: "watchers of whole mounts", needs: "SYS_ADMIN",
		works:  "fanotify",
		script: `can fanotify`,
	},
	{
		name: "fuse", use: "file systems", needs: "SYS_ADMIN",
		works:  "FUSE, with `--device /dev/fuse`",
		script: `can fuse`,
	},
	{
		name: "overlay", use: "", needs: "SYS_ADMIN",
		works: "overlayfs on a tmpfs",
		script: `
			mkdir -p /tmp/o/lower /tmp/o/upper /tmp/o/work /tmp/o/merged
			echo lower >/tmp/o/lower/file
			mount -t overlay -o lowerdir=/tmp/o/lower,upperdir=/tmp/o/upper,workdir=/tmp/o/work overlay /tmp/o/merged
			echo upper >/tmp/o/merged/file
			[ "$(cat /tmp/o/lower/file /tmp/o/upper/file)" = $'lower\nupper' ]
			umount /tmp/o/merged`,
	},
	{
		name: "images", use: "", needs: privileged,
		works: "file systems in files: ext4 with `mount -o loop`; erofs without a loop device, from a file that is not on tmpfs",
		script: `
			mkdir -p /disks/tree /disks/mnt
			cd /disks
			echo content >tree/file
			truncate -s 16M ext4
			mkfs.ext4 -q -d tree ext4
			mount -t ext4 -o loop ext4 mnt
			[ "$(cat mnt/file)" = content ]
			echo changed >mnt/file
			umount mnt
			mkfs.erofs --quiet erofs tree
			can "mount=erofs /disks/erofs /disks/mnt"
			[ "$(cat mnt/file)" = content ]
			umount mnt
			grep -qw squashfs /proc/filesystems`,
	},
	{
		name: "quota", use: "", needs: privileged,
		works: "quotas of ext4",
		script: `
			mkdir -p /disks/limited
			truncate -s 16M /disks/quota
			mkfs.ext4 -q -O quota -E quotatype=usrquota,root_owner=1000:1000 /disks/quota
			mount -t ext4 -o loop,usrquota /disks/quota /disks/limited
			can quota=/disks/limited
			setpriv --reuid 1000 --clear-groups dd if=/dev/zero of=/disks/limited/file bs=4k count=8 status=none
			fails setpriv --reuid 1000 --clear-groups dd if=/dev/zero of=/disks/limited/file bs=4k count=64 status=none 2>/tmp/refused
			grep -q 'Disk quota exceeded' /tmp/refused
			umount /disks/limited`,
	},
	{
		name: "verity", use: "", needs: privileged,
		works:  "dm-verity: a changed block is an error",
		script: `can verity`,
	},
	{
		name: "zram", use: "swap", needs: privileged,
		works: "on a zram device, compressed by zstd",
		script: `
			IFS=: read -r major minor </sys/block/zram0/dev
			echo zstd >/sys/block/zram0/comp_algorithm
			echo 64M >/sys/block/zram0/disksize
			mknod /tmp/zram0 b "$major" "$minor"
			mkswap /tmp/zram0
			swapon /tmp/zram0
			grep -q zram0 /proc/swaps
			swapoff /tmp/zram0`,
	},
	{
		name: "hugetlbfs", use: "huge pages", needs: privileged,
		works: "of 2 MiB",
		script: `
			echo 4 >/proc/sys/vm/nr_hugepages
			mkdir /tmp/huge
			mount -t hugetlbfs none /tmp/huge
			fallocate -l 4M /tmp/huge/file
			grep -q '^HugePages_Free: *2$' /proc/meminfo
			umount /tmp/huge
			echo 0 >/proc/sys/vm/nr_hugepages`,
	},
	{
		name: "binfmt_misc", use: "programs of other formats", needs: privileged,
		works: "binfmt_misc",
		script: `
			mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
			echo ':guest:M::GUEST::/usr/bin/cat:' >/proc/sys/fs/binfmt_misc/register
			echo GUEST >/tmp/program
			chmod +x /tmp/program
			[ "$(/tmp/program)" = GUEST ]
			umount /proc/sys/fs/binfmt_misc`,
	},
	{
		name: "cgroups", use: "groups of one's own in a container", needs: privileged,
		works: "version 2: cpu, cpuset, io, memory, pids, hugetlb",
		script: `
			for controller in cpu cpuset io memory pids hugetlb; do grep -qw $controller /sys/fs/cgroup/cgroup.controllers; done
			mkdir /sys/fs/cgroup/guest
			[ -e /sys/fs/cgroup/guest/cgroup.procs ]
			grep -qx 'default 100' /sys/fs/cgroup/io.weight
			rmdir /sys/fs/cgroup/guest`,
	},
	{
		name: "docker", use: "Docker in a container", needs: privileged,
		works: "dockerd with overlay2, its directory on a tmpfs, and its bridge: a container runs, with a network and limits",
		test:  dockerInContainer,
	},
	{
		name: "pods", use: "a node of Kubernetes in a container", needs: privileged,
		works: "what a node has below kubelet: containerd's interface for it, runc, and CNI's bridge: a pod's container runs, with a network and limits",
		test:  podsInContainer,
	},
	{
		name: "kubelet", needs: privileged, long: true,
		works: "kubelet without a control plane: a pod of its directory is Running, with a network, and kubelet shows its log (tried in `make test-long`)",
		test:  kubeletInContainer,
	},
	{
		name: "node", needs: privileged, long: true,
		works: "the whole node: etcd, API server, controllers, scheduler and kubelet, with 3 GiB of memory: a pod of `kubectl run` is scheduled and Running, with a network, and `kubectl logs` shows its log (tried in `make test-long`)",
		test:  nodeInContainer,
	},
	{
		name: "systemd", use: "systemd as init", needs: privileged,
		works: "it starts its units, and a service runs in a group of its own",
		test:  systemd,
	},
}
