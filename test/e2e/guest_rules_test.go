package e2e

import "strings"

// rulesOfDocker are of the kind that Docker makes. Ports from the first on are redirected,
// and closed to a user.
func rulesOfDocker(tool, port string) string {
	return strings.NewReplacer("TOOL", tool, "PORT", port).Replace(`
		serve $((PORT + 1)) redirected
		TOOL -t nat -A OUTPUT -d 127.0.0.1 -p tcp --dport PORT -m comment --comment "a published port" -j REDIRECT --to-ports $((PORT + 1))
		[ "$(ask 127.0.0.1 PORT)" = redirected ]
		serve $((PORT + 2)) translated
		TOOL -t nat -A OUTPUT -d 10.96.2.1 -p tcp --dport PORT -j DNAT --to-destination 127.0.0.1:$((PORT + 2))
		[ "$(ask 10.96.2.1 PORT)" = translated ]
		TOOL -t nat -A POSTROUTING -s 10.1.0.0/16 ! -o lo -j MASQUERADE
		TOOL -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport PORT -j DNAT --to-destination 10.1.0.2:80
		TOOL -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		TOOL -A FORWARD -p tcp -m multiport --dports 80,443 -m statistic --mode random --probability 0.5 -j ACCEPT
		TOOL -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
		TOOL -t raw -A PREROUTING -p udp --dport 53 -j CT --notrack
		TOOL -t raw -A PREROUTING -p udp --dport 54 -j CT --zone 7
		TOOL -t nat -A OUTPUT -d 10.96.2.2 -p sctp --dport PORT -j DNAT --to-destination ` + guestPlainAddress + `:$((PORT + 4))
		can "sctp=` + guestPlainAddress + `:$((PORT + 4)) 10.96.2.2:PORT"
		TOOL -A OUTPUT -p tcp --dport $((PORT + 3)) -m owner --uid-owner 1000 -j REJECT --reject-with tcp-reset
		serve $((PORT + 3)) open
		fails setpriv --reuid 1000 --clear-groups bash -c "exec 3<>/dev/tcp/127.0.0.1/$((PORT + 3))" 2>/dev/null
		[ "$(ask 127.0.0.1 $((PORT + 3)))" = open ]
	`)
}

const rulesOf6 = `
	ip6tables-legacy -t nat -A POSTROUTING -s fd01::/64 -j MASQUERADE
	ip6tables-legacy -A INPUT -p tcp -m conntrack --ctstate INVALID -j REJECT
`

// rulesOfKubeProxy are what it loads for one service with two endpoints and one without.
const rulesOfKubeProxy = `
	cat >/tmp/kube-proxy <<'END'
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-ONE - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "one cluster IP" -m tcp --dport 80 -j KUBE-SVC-ONE
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-ONE ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-ONE -m recent --name KUBE-SEP-A --rcheck --seconds 10800 --reap --rsource -j KUBE-SEP-A
-A KUBE-SVC-ONE -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-ONE -j KUBE-SEP-B
-A KUBE-SEP-A -s 10.244.0.5/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m recent --name KUBE-SEP-A --set --rsource -m tcp -j DNAT --to-destination ` + guestPlainAddress + `:8401
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination ` + guestPlainAddress + `:8401
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m comment --comment "two has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
END
	iptables-legacy-restore --noflush /tmp/kube-proxy
	serve 8401 endpoint
	[ "$(ask 10.96.0.10 80)" = endpoint ]
	fails try 10.96.0.11 80
	iptables-legacy -t nat -D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
	iptables-legacy -D OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
	iptables-nft-restore --noflush /tmp/kube-proxy
	serve 8401 endpoint
	[ "$(ask 10.96.0.10 80)" = endpoint ]
	fails try 10.96.0.11 80
`

// rulesOfIstio lead all that goes out to a proxy of the user 1337.
const rulesOfIstio = `
	iptables-legacy-restore --noflush <<'END'
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
*mangle
:ISTIO_TPROXY - [0:0]
-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark
-A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 0x539
-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark
-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539
COMMIT
END
	serve 15001 outbound
	[ "$(ask 192.0.2.1 80)" = outbound ]
	serve 15006 inbound
	proxy() { setpriv --reuid 1337 --clear-groups bash -c "exec 3<>/dev/tcp/` + guestPlainAddress + `/9999; cat <&3" 2>/dev/null; }
	until answer=$(proxy); do sleep 0.1; done
	[ "$answer" = inbound ]
	iptables-legacy -t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT
	iptables-legacy -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND
`

const rulesOfNft = `
	nft -f - <<'END'
table inet guest {
	set closed { type ipv4_addr; flags interval; elements = { 127.0.8.0/24, 127.0.9.1 } }
	map ports { type inet_service : inet_service; elements = { 8500 : 8501, 8502 : 8503 } }
	map services { type ipv4_addr . inet_service : verdict; elements = { 10.96.3.1 . 80 : goto service } }
	chain service { numgen random mod 2 vmap { 0 : goto endpoint, 1 : goto endpoint }; }
	chain endpoint { ip protocol tcp dnat ip to ` + guestPlainAddress + `:8504; }
	chain out {
		type filter hook output priority 0
		ip daddr @closed tcp dport 8505 counter reject with tcp reset
		meta skuid 1000 tcp dport 8506 reject
		fib daddr type local ct state established,related accept
		udp dport 5353 limit rate 10/second quota over 10 mbytes log prefix "guest " queue num 1 bypass
	}
	chain translate {
		type nat hook output priority -100
		ip daddr . tcp dport vmap @services
		ip daddr 127.0.0.1 ip protocol tcp redirect to :tcp dport map @ports
	}
	chain leave { type nat hook postrouting priority 100; oifname != "lo" ip saddr 10.1.0.0/16 masquerade random; }
	chain zones { type filter hook prerouting priority -300; udp dport 54 ct zone set 7; }
	chain divert { type filter hook prerouting priority -150; tcp dport 9998 socket transparent 1 meta mark set 1; tcp dport 9997 tproxy ip to 127.0.0.1:9996; }
}
table bridge guest { chain forward { type filter hook forward priority 0; ether type arp accept; }; }
table netdev guest {
	chain in { type filter hook ingress device "lo" priority 0; tcp dport 8501 counter; }
	chain out { type filter hook egress device "lo" priority 0; tcp dport 8501 counter; }
}
table ip guest { }
table ip6 guest { chain in { type filter hook input priority 0; ct state invalid reject; }; }
END
	serve 8501 redirected
	[ "$(ask 127.0.0.1 8500)" = redirected ]
	for hook in in out; do nft list chain netdev guest $hook | grep 'counter packets [1-9]'; done
	serve 8504 endpoint
	[ "$(ask 10.96.3.1 80)" = endpoint ]
	serve 8505 open
	fails try 127.0.8.7 8505
	[ "$(ask 127.0.0.1 8505)" = open ]
`

const interfaces = `
	ip link add d1 type dummy
	ip link set d1 up
	ip link add v1 type veth peer name v2
	ip link add b1 type bridge vlan_filtering 1
	ip link set v1 master b1
	bridge vlan add dev v1 vid 7
	ip link add link d1 name d1.7 type vlan id 7
	ip link add link d1 name m1 type macvlan mode bridge
	ip link add link d1 name p1 type macvtap
	ip link add f1 type vrf table 100
	ip link add i1 type ifb
	for link in v1 v2 b1 d1.7 m1 p1 f1 i1; do ip link set $link up; done
	ip link add d2 type dummy
	ip link add link d2 name l1 type ipvlan mode l2
	ip rule add fwmark 7 lookup 101
	ip route add 10.7.0.0/16 table 101 nexthop dev d1 weight 1 nexthop dev v2 weight 2
	ip rule del fwmark 7
	for link in l1 d2 i1 f1 p1 m1 d1.7 b1 v1 d1; do ip link del $link; done
`

// trafficControl also has netem lose what is sent, and a program of BPF throw away what comes.
const trafficControl = `
	ip link add q1 type dummy
	ip link set q1 up
	tc qdisc add dev q1 root handle 1: htb default 1
	tc class add dev q1 parent 1: classid 1:1 htb rate 10mbit
	tc class add dev q1 parent 1: classid 1:2 htb rate 1mbit
	tc qdisc add dev q1 parent 1:1 fq
	tc qdisc add dev q1 parent 1:2 sfq
	tc filter add dev q1 parent 1: protocol ip prio 1 u32 match ip dport 80 0xffff flowid 1:2
	tc filter add dev q1 parent 1: protocol ip prio 2 handle 7 fw flowid 1:2
	tc filter add dev q1 parent 1: protocol ip prio 3 flower ip_proto tcp dst_port 443 action skbedit mark 7
	for qdisc in "tbf rate 1mbit burst 10kb latency 50ms" prio fq_codel "netem loss 100%"; do
		tc qdisc del dev q1 root
		tc qdisc add dev q1 root $qdisc
	done
	tc qdisc add dev q1 clsact
	tc filter add dev q1 egress matchall action police rate 1mbit burst 10k conform-exceed drop
	tc filter add dev q1 ingress matchall action mirred egress redirect dev lo
	tc qdisc add dev lo clsact
	/bin/ping -c 1 -W 60 127.0.0.1
	tc filter add dev lo ingress bpf da bytecode '1,6 0 0 2'
	fails /bin/ping -c 1 -W 1 127.0.0.1
	tc qdisc del dev lo clsact
	ip link del q1
`
