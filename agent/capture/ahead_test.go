package capture

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRulesAhead(t *testing.T) {
	c := sample() // web: uid 33, :8080, DNS
	c.Workloads[0].ExcludeAddresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	slice := sample()
	slice.Workloads[0].UIDs, slice.Workloads[0].Slice = nil, "web.slice"
	down := sample()
	down.Workloads[0].down = true
	const docker = "-N DOCKER\n-A DOCKER -i docker0 -j RETURN\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 172.17.0.2:80\n"
	for _, test := range []struct {
		name   string
		c      Config
		root   string
		before string // rules before the jump; lines with -A or -N are of other chains
		taken  bool
	}{
		{"none", c, chainOut, "", false},
		{"all of it", c, chainOut, "-j ACCEPT", true},
		{"back to the policy", c, chainOut, "-p tcp -j RETURN", true},
		{"another user's", c, chainOut, "-p tcp -m owner --uid-owner 34 -j ACCEPT", false},
		{"a range with the user in it", c, chainOut, "-p tcp -m owner --uid-owner 0-99 -j ACCEPT", true},
		{"all but the user", c, chainOut, "-m owner ! --uid-owner 33 -j ACCEPT", false},
		{"all but another", c, chainOut, "-m owner ! --uid-owner 34 -j ACCEPT", true},
		{"another user's, of a slice", slice, chainOut, "-m owner --uid-owner 34 -j ACCEPT", true},
		{"NTP", c, chainOut, "-p udp -m udp --dport 123 -j ACCEPT", false},
		{"DNS", c, chainOut, "-p udp -m udp --dport 53 -j DNAT --to-destination 10.0.0.53", true},
		{"what is let through anyway", c, chainOut, "-d 127.0.0.1/32 -p tcp -j ACCEPT", false},
		{"what is excluded", c, chainOut, "-d 10.9.1.0/24 -p tcp -j ACCEPT", false},
		{"more than what is excluded", c, chainOut, "-d 10.8.0.0/15 -p tcp -j ACCEPT", true},
		{"counted", c, chainOut, "-p tcp -j LOG --log-prefix x", false},
		{"marked", c, chainOut, "-j MARK --set-xmark 0x1/0xffffffff", false},
		{"no target", c, chainOut, "-p tcp", false},
		{"a container's port, inbound", c, chainIn, docker + "-m addrtype --dst-type LOCAL -j DOCKER", false},
		{"the program's port, inbound", c, chainIn, strings.ReplaceAll(docker, "9000", "8080") + "-m addrtype --dst-type LOCAL -j DOCKER", true},
		{"a range around it", c, chainIn, "-p tcp -m multiport --dports 22,8000:8100 -j ACCEPT", true},
		{"an excluded port", c, chainIn, "-p tcp -m tcp --dport 22 -j ACCEPT", false},
		{"an empty chain", c, chainOut, "-N OTHER\n-j OTHER", false},
		{"a chain that is left", c, chainOut, "-N OTHER\n-g OTHER", true},
		{"an unknown target", c, chainOut, "-j NEWER", true},
		{"words of a target", c, chainOut, "-p udp -m udp --dport 123 -j DNAT --to-destination 10.0.0.1 --uid-owner 33", false},
		{"gone around anyway", down, chainIn, "-j ACCEPT", false},
		{"the zone of DNS", c, chainDNS, "-p udp -j ACCEPT", true},
		{"calls, where the zone is", c, chainDNS, "-p tcp -j ACCEPT", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := allHooks[slices.IndexFunc(allHooks, func(h hook) bool { return h.root == test.root })]
			var lines []string
			last := ""
			for line := range strings.Lines(test.before) {
				line = strings.TrimSpace(line)
				if !strings.HasPrefix(line, "-A ") && !strings.HasPrefix(line, "-N ") {
					last = line
					line = "-A " + h.builtin + " " + line
				}
				lines = append(lines, line)
			}
			lines = append(lines, "-A "+h.builtin+" "+h.jump(), "-A "+h.builtin+" -j ACCEPT")
			got := parseListing(lines).ahead(h, (&builder{c: test.c, family: V4}).flows(test.root))
			if want := []string{last}; test.taken && !slices.Equal(got, want) || !test.taken && len(got) > 0 {
				t.Errorf("ahead %q, taken %v", got, test.taken)
			}
		})
	}
}
