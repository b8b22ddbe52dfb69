//go:build e2e

package nomad_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kerege/kerege/agent"
	rig "github.com/kerege/kerege/e2e/nomad"
)

// on runs a script on the second host.
func (m *meshed) on(c *rig.Client, stdin, script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.Command(ctx, "sh", "-ec", "PATH=/usr/local/bin:$PATH; "+script)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// joins takes the second host into the mesh.
func (m *meshed) joins(c *rig.Client) {
	m.t.Helper()
	m.until(30*time.Second, "the second agent's join", func() (bool, string) {
		token, err := try("kerege token create -node n2 2>/dev/null")
		if err != nil {
			return false, token
		}
		out, err := m.on(c, token, "kerege join -")
		return err == nil, out
	})
}

// inOn says whether a service is in the mesh on the second host, and else why not.
func (m *meshed) inOn(c *rig.Client, service string) (bool, string) {
	client, err := agent.NewClient("unix://" + c.Path("/run/kerege/agent/api.sock"))
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := client.Status(ctx)
	for _, w := range st.Workloads {
		if w.Service == service {
			return w.State == "in" && w.Accepted && w.Proxy.Ready, w.State + " " + w.Reason + " " + w.Proxy.Why
		}
	}
	return false, fmt.Sprint(len(st.Workloads), " workloads, ", err)
}

// drained drains a client whose allocation is called from another.
func (m *meshed) drained(web, drain string) {
	c, err := m.a.Second()
	if err != nil {
		m.t.Fatal(err)
	}
	m.joins(c)
	m.another("api-5", func(s string) string {
		return strings.Replace(s, "count = 2", `count = 1
    affinity {
      attribute = "${node.unique.name}"
      value     = "n2"
      weight    = 100
    }`, 1)
	})
	m.until(60*time.Second, "api on the second host", func() (bool, string) { return m.inOn(c, "api") })
	began := time.Now()
	m.until(30*time.Second, "calls to the second host", func() (bool, string) {
		before := m.served("api-5")
		r := m.load(web, "http://api.mesh:8080/", 50, time.Second)
		return m.served("api-5") > before+r.Calls/6, fmt.Sprintf("%+v", r)
	})
	m.t.Logf("the second host is called %s after its workload is in the mesh", time.Since(began).Round(100*time.Millisecond))
	end := m.calling(web, "http://api.mesh:8080/")
	began = time.Now()
	if out, err := m.on(c, "", drain); err != nil {
		m.t.Errorf("%s: %v\n%s", drain, err, out)
	}
	m.t.Logf("the client is drained after %s", time.Since(began).Round(100*time.Millisecond))
	m.has("api", 3) // Nomad has placed it on the first host
	end(300)
	if left, _ := c.Command(m.t.Context(), "sh", "-c", "ls /run/netns").Output(); len(bytes.TrimSpace(left)) > 0 {
		m.t.Errorf("network namespaces are left on the second host: %s", left)
	}
	sh(m.t, "nomad job stop -detach api-5")
	m.has("api", 2)
}
