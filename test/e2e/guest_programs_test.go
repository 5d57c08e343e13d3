package e2e

import "testing"

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
