//go:build e2e

package nomad_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	rig "github.com/kerege/kerege/e2e/nomad"
)

// checked is one check in Consul.
type checked struct{ ServiceID, CheckID, Status, Output string }

// checks lists those of a service that Consul has.
func (m *meshed) checks(service string) (list []checked) {
	m.t.Helper()
	resp, err := http.Get("http://127.0.0.1:8500/v1/health/checks/" + service)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return list
}

// mapped is where an allocation is registered: the host's port.
func (m *meshed) mapped(alloc string) string {
	m.t.Helper()
	got, _, err := m.a.Allocations().Info(alloc, nil)
	if err != nil || got.AllocatedResources == nil {
		m.t.Fatal(err)
	}
	for _, p := range got.AllocatedResources.Shared.Ports {
		if p.Label == "http" {
			return fmt.Sprintf("%s:%d", rig.HostAddress, p.Value)
		}
	}
	m.t.Fatalf("%s has no port http", alloc)
	return ""
}

// own is an allocation's own address.
func (m *meshed) own(alloc string) string {
	m.t.Helper()
	got, _, err := m.a.Allocations().Info(alloc, nil)
	if err != nil || got.NetworkStatus == nil {
		m.t.Fatal(err)
	}
	return got.NetworkStatus.Address
}

// asks is what curl gets: a status, or "closed" for a connection that is, without a word. As another
// user of a namespace than the workload's: past that workload's own capture.
func asks(netns, args string) string {
	cmd := "curl -sS -m 3 -o /dev/null -w '%{http_code}' " + args
	if netns != "" {
		cmd = "nsenter --net=/run/netns/" + netns + " setpriv --reuid=kerege-envoy --clear-groups " + cmd
	}
	out, err := try(cmd)
	switch {
	case err == nil:
		return out
	case strings.Contains(out, "(52)") || strings.Contains(out, "(56)"): // an empty reply, a reset
		return "closed"
	}
	return out
}

// checkedFromOutside: Consul's checks of captured, strict allocations pass, and open
// nothing else.
func (m *meshed) checkedFromOutside(web string, apis []string) {
	m.until(30*time.Second, "consul's checks", func() (bool, string) {
		list := append(m.checks("api"), m.checks("web")...)
		bad := slices.DeleteFunc(slices.Clone(list), func(c checked) bool { return c.Status == "passing" && strings.Contains(c.Output, "200 OK") })
		return len(list) == 3 && len(bad) == 0, fmt.Sprintf("%+v", bad)
	})
	began := time.Now()
	for time.Since(began) < 5*time.Second { // two more of every 2 s
		for _, c := range m.checks("api") {
			if c.Status != "passing" {
				m.t.Fatalf("a check does not stay: %+v", c)
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	at := "http://" + m.mapped(apis[0])
	for _, c := range []struct{ what, netns, args, want string }{
		{"the check", "", at + "/health", "200"},
		{"the check by HEAD", "", "-I " + at + "/health", "200"},
		{"another path", "", at + "/", "403"},
		{"a path below", "", at + "/health/../", "403"},
		{"the path dressed up", "", "--path-as-is " + at + "/x/../health", "200"}, // the same after its one canonical form
		{"a query", "", at + "/health?x=1", "403"},
		{"another method", "", "-X POST " + at + "/health", "403"},
		{"the host past its own port", "", "http://" + m.own(apis[0]) + ":8080/health", "closed"},
		{"an allocation at the host's port", web, at + "/health", "closed"},
		{"an allocation at the other's address", web, "http://" + m.own(apis[0]) + ":8080/health", "closed"},
	} {
		if got := asks(c.netns, c.args); got != c.want {
			m.t.Errorf("%s: %q, not %q", c.what, got, c.want)
		}
	}
}
