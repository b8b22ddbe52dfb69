//go:build e2e

package systemd

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// Two services on one host, typed as the page says; then each tries to get at
// what is the other's.
func TestTwoServicesOnOneHost(t *testing.T) {
	ctx, w := newTown(t, false)
	other, err := w.AddHost(ctx, "vm-13", "api", "v1")
	must(t, err)
	vm, err := w.AddHost(ctx, "vm-20", "", "")
	must(t, err)
	r := newRoot(t, w, vm.Host)
	must(t, r.Write("/etc/resolv.conf", "nameserver 10.77.0.1\noptions timeout:1 attempts:2\n"))
	must(t, r.Boot(ctx))
	run(t, ctx, r, "useradd --system shop; useradd --system batch")
	p := readPage(t, "two-services.md", w, r)
	p.hcl = func(text string) {
		must(t, w.StartServer(ctx, fmt.Sprintf(`mesh {
  trust_domain = "prod.example"
}

defaults "*" {
  protocol = "http"
}

service "api" {
  instance "api-1" {
    address = %q
    port    = 8080
    node    = "vm-13"
  }
}

`, other.IP)+text))
		must(t, other.BringIn(ctx))
	}
	p.section(ctx, 0)
	run(t, ctx, r, "systemctl daemon-reload && systemctl enable --now shop batch 2>&1")
	before := tables(t, ctx, r)
	for n := 1; n <= 3; n++ {
		p.section(ctx, n)
	}
	program{r, "shop"}.waitFor(t, ctx, api, "200 ")
	program{r, "batch"}.waitFor(t, ctx, api, "403 ")
	program{r, "shop"}.waitFor(t, ctx, "http://batch.mesh:8082/", "200 ") // it came into the mesh a moment ago
	p.section(ctx, 4)
	p.section(ctx, 5)
	apart(t, ctx, r)
	p.section(ctx, 6)
	program{r, "batch"}.waitFor(t, ctx, "http://"+other.IP.String()+":8080/", "error")
	run(t, ctx, r, "kerege leave && systemctl disable --now kerege-envoy@shop kerege-agent 2>&1")
	if after := tables(t, ctx, r); after != before {
		t.Errorf("the tables are not what they were:\nbefore\n%s\nafter\n%s", before, after)
	}
}

// apart tries every way from one service to what is the other's.
func apart(t *testing.T, ctx context.Context, r *Root) {
	t.Helper()
	pid := strings.TrimSpace(run(t, ctx, r, "pgrep -u kerege-envoy-shop -x envoy"))
	state := strings.TrimSpace(run(t, ctx, r, "ls /var/lib/kerege/agent/identity | head -1"))
	if pid == "" || state == "" {
		t.Fatalf("nothing to try on: Envoy's pid %q, identity file %q", pid, state)
	}
	open := "curl -s -m 2 --http2-prior-knowledge --unix-socket /run/kerege/proxy/shop/"
	for _, user := range []string{"kerege-envoy-batch", "batch", "shop", "nobody"} {
		for what, try := range map[string]string{
			"xDS and SDS":     open + "xds.sock http://agent/",
			"Envoy's admin":   open + "admin.sock http://envoy/config_dump",
			"bootstrap":       "cat /run/kerege/proxy/shop/bootstrap.json",
			"folder":          "ls /run/kerege/proxy/shop",
			"agent's state":   "cat /var/lib/kerege/agent/identity/" + state,
			"memory":          "head -c 1 /proc/" + pid + "/mem",
			"open files":      "ls /proc/" + pid + "/fd/",
			"environment":     "cat /proc/" + pid + "/environ",
			"end":             "kill " + pid,
			"the agent's API": "kerege capture remove",
		} {
			out, code := r.Run(ctx, program{r, user}.line(try))
			if code == 0 {
				t.Errorf("%s gets at %s of shop's proxy: `%s`: %.200s", user, what, try, out)
			}
		}
	}
	// The same ways are open to the one whose they are.
	for _, try := range []string{"cat /run/kerege/proxy/shop/bootstrap.json", "curl -sf -m 2 --unix-socket /run/kerege/proxy/shop/admin.sock http://envoy/ready", "ls /proc/" + pid + "/fd/", open + "xds.sock http://agent/"} {
		if out, code := r.Run(ctx, program{r, "kerege-envoy-shop"}.line(try)); code != 0 {
			t.Errorf("the proxy's own user: `%s` exits %d: %.200s", try, code, out)
		}
	}
	out, code := r.Run(ctx, program{r, "kerege-envoy-batch"}.line("timeout 10 kerege envoy -service shop"))
	if code != 1 || !strings.Contains(out, "the proxy of shop runs as user") {
		t.Errorf("another proxy's user starts shop's proxy: exit %d: %s", code, out)
	}
	two := run(t, ctx, r, "systemctl show -P MainPID kerege-envoy@shop kerege-envoy@batch; systemctl is-active kerege-envoy@shop kerege-envoy@batch")
	if f := strings.Fields(two); len(f) != 4 || f[0] == f[1] || f[2] != "active" || f[3] != "active" {
		t.Errorf("two Envoys: %s", two)
	}
}
