//go:build e2e

package nomad_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// forged has an allocation ask for the identity of a service that is its own by a
// registration in Consul alone. Its workload identity is good.
func (m *meshed) forged(alloc string) {
	body := fmt.Sprintf(`{"Name":"bank","ID":"_nomad-task-%s-group-web-bank-http","Address":%q,"Port":9090,"Tags":["kerege-protocol=http"]}`, alloc, m.netAddress(alloc))
	m.consul("/v1/agent/service/register", body)
	defer m.consul("/v1/agent/service/deregister/_nomad-task-"+alloc+"-group-web-bank-http", "")
	var said bytes.Buffer
	cmd := exec.Command("nsenter", "--net=/run/netns/"+alloc, "setpriv", "--reuid=kerege-envoy", "--regid=kerege-envoy", "--clear-groups",
		"env", "NOMAD_SECRETS_DIR="+m.a.Dir+"/data/alloc/"+alloc+"/kerege-envoy/secrets", "/usr/local/bin/kerege", "envoy", "-service", "bank", "-workload", alloc)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if m.t.Failed() {
			m.t.Logf("its sidecar: %s", said.String())
		}
	}()
	m.until(45*time.Second, "the refusal", func() (bool, string) {
		m.consul("/v1/agent/service/register", body) // again: Nomad's client takes away what it has not registered, now and then
		n, rest := m.in("bank")
		if n > 0 {
			m.t.Fatal("bank is in the mesh")
		}
		return strings.Contains(rest, "is not what consul says: the allocation's job has no service \"bank\" in its group \"web\""), rest
	})
	for _, w := range m.status().Workloads {
		if w.Service == "bank" && !w.Expires.IsZero() {
			m.t.Errorf("it has a certificate: %+v", w)
		}
	}
	if r := m.load(alloc, "http://api.mesh:8080/", 50, 2*time.Second); r.Failed != 0 || r.ByCode[200] != r.Calls || r.Calls == 0 {
		m.t.Errorf("the service that the allocation is does not call any more: %+v", r)
	}
}

// netAddress is an allocation's own address.
func (m *meshed) netAddress(alloc string) string {
	out := sh(m.t, "nsenter --net=/run/netns/"+alloc+" ip -4 -o addr show dev eth0")
	_, rest, _ := strings.Cut(out, "inet ")
	addr, _, _ := strings.Cut(rest, "/")
	return addr
}

// consul writes to Consul's agent.
func (m *meshed) consul(path, body string) {
	m.t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://127.0.0.1:8500"+path, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		m.t.Errorf("consul answers %s to %s", resp.Status, path)
	}
}
