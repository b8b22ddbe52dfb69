//go:build e2e

package systemd

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/e2e/terraform"
	"github.com/kerege/kerege/e2e/town"
)

// What terraform renders for a server and two nodes is applied at boot by the
// real cloud-init, under the units of its package and from a NoCloud seed, and the
// hosts are a mesh: no hand does more than register services and apply capture.
func TestHostsByCloudInit(t *testing.T) {
	ctx, w := newTown(t, true)
	token := secureConsul(t, ctx, w)
	server := newRoot(t, w, w.Server)
	cloudInit(t, ctx, server, "server", map[string]string{"stand-name": "server", "stand-consul": w.ConsulHost.IP.String(), "stand-secret": token})
	must(t, server.Boot(ctx))
	applied(t, ctx, server)
	wrote(t, ctx, server, "/etc/kerege.d/server.hcl 644 root", "/etc/kerege.d/mesh/mesh.hcl 644 root", "/etc/kerege.d/secrets 700 root", "/etc/kerege.d/secrets/consul 600 root")
	credential(t, ctx, server, token)

	nodes := map[string]*Root{}
	for name, service := range map[string]string{"vm-12": "web", "vm-13": "api"} {
		h, err := w.AddHost(ctx, name, service, "v1")
		must(t, err)
		register(t, ctx, w, h)
		r := newRoot(t, w, h.Host)
		nodes[service] = r
		must(t, r.Write("/usr/lib/sysusers.d/app.conf", "u "+service+" -\n"))
		must(t, r.Write("/etc/systemd/system/"+service+".service", fmt.Sprintf("[Service]\nExecStart=/usr/local/bin/app serve -name %s -listen :8080\nUser=%[1]s\n[Install]\nWantedBy=multi-user.target\n", service)))
		once := strings.TrimSpace(run(t, ctx, server, "kerege token create -node "+name))
		cloudInit(t, ctx, r, "node", map[string]string{"stand-name": name, "stand-server": server.IP.String(), "kj_stand-token": once, "stand-service": service, "stand-user": service})
		run0(t, "systemctl", "--root="+r.Dir, "enable", service+".service")
		must(t, r.Boot(ctx))
		applied(t, ctx, r)
		wrote(t, ctx, r, "/etc/kerege.d/agent.hcl 644 root", "/etc/kerege.d/secrets 700 root", "/etc/kerege.d/secrets/join-token 600 root")
		if out := run(t, ctx, r, "hostname; systemctl is-active kerege-agent kerege-envoy@"+service); out != name+"\nactive\nactive\n" {
			t.Errorf("%s is not as its cloud-init says: %s", name, out)
		}
	}
	for _, r := range nodes {
		began := time.Now()
		out := run(t, ctx, r, "kerege capture apply && kerege capture confirm")
		t.Logf("%s: captured after %s: %s", r.Name, time.Since(began).Round(time.Millisecond), out)
		probes(t, ctx, r)
	}
	program{nodes["web"], "web"}.waitFor(t, ctx, api, "200 ")
	// api's application answers only who comes by mTLS as web: nobody else on vm-12, and nobody in the clear.
	direct := "timeout 5 curl -s -m 2 -o /dev/null -w '%{http_code}' http://" + nodes["api"].IP.String() + ":8080/"
	if out, code := nodes["web"].Run(ctx, direct); code == 0 {
		t.Errorf("a caller without a certificate is answered: %s", out)
	}
	mtls := run(t, ctx, nodes["api"], "curl -s --unix-socket /run/kerege/proxy/api/admin.sock 'http://envoy/stats?filter=ssl.handshake|ssl.no_certificate'")
	if !strings.Contains(mtls, "ssl.handshake: ") || strings.Contains(mtls, "ssl.handshake: 0") || strings.Contains(mtls, "no_certificate: 1") {
		t.Errorf("handshakes of api's proxy: %s", mtls)
	}
}

// secureConsul starts a Consul that answers nobody without a token, and makes one
// with what the server needs and nothing else.
func secureConsul(t *testing.T, ctx context.Context, w *town.Town) (token string) {
	t.Helper()
	binary, err := parts.Find("consul")
	must(t, err)
	addr := w.ConsulHost.IP.String()
	_, err = w.ConsulHost.Start(lab.Spec{Name: "consul", Args: []string{binary, "agent", "-dev", "-node=consul", "-bind=" + addr, "-client=0.0.0.0", "-log-level=warn",
		"-hcl", `acl { enabled = true, default_policy = "deny", tokens { initial_management = "root", agent = "root" } }`}})
	must(t, err)
	ask := func(args ...string) (string, error) {
		return w.Server.Output(ctx, lab.Spec{Env: []string{"CONSUL_HTTP_ADDR=" + addr + ":8500", "CONSUL_HTTP_TOKEN=root"}, Args: append([]string{binary}, args...)})
	}
	must(t, lab.Until(ctx, 20*time.Second, "Consul's ACLs", func() error {
		_, err := ask("acl", "policy", "create", "-name=kerege", `-rules=node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }`)
		return err
	}))
	out, err := ask("acl", "token", "create", "-policy-name=kerege", "-format=json")
	must(t, err)
	_, rest, _ := strings.Cut(out, `"SecretID": "`)
	token, _, found := strings.Cut(rest, `"`)
	if !found {
		t.Fatalf("a token: %s", out)
	}
	return token
}

// register is town's Register, with a token.
func register(t *testing.T, ctx context.Context, w *town.Town, h *town.Host) {
	t.Helper()
	body := fmt.Sprintf(`{"Node":%q,"Address":%q,"Service":{"ID":"%[3]s-1","Service":%[3]q,"Port":8080}}`, h.Name, h.IP, h.Service)
	_, err := w.ConsulHost.Output(ctx, lab.Spec{In: strings.NewReader(body), Args: []string{"curl", "-sf", "-X", "PUT", "-H", "X-Consul-Token: root", "--data-binary", "@-",
		"http://" + w.ConsulHost.IP.String() + ":8500/v1/catalog/register"}})
	must(t, err)
}

// run0 runs a command on this machine.
func run0(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// cloudInit makes a root that is switched off an image with Debian's cloud-init,
// and the module's output the seed of its first boot.
func cloudInit(t *testing.T, ctx context.Context, r *Root, role string, words map[string]string) {
	t.Helper()
	text, rendered, err := terraform.UserData(ctx, "../..", role, words)
	must(t, err)
	if strings.Contains(text, "stand-") || !strings.HasPrefix(text, "#cloud-config\n") {
		t.Fatalf("user data of %s:\n%s", r.Name, text)
	}
	t.Logf("user data of %s: rendered by terraform: %t", r.Name, rendered)
	run0(t, "sh", "-ec", `tar -C "$0" -c . | tar -C "$1" -x --keep-directory-symlink --no-same-owner`, parts.Path(t, "cloud-init"), r.Dir)
	must(t, r.Write("/var/lib/cloud/seed/nocloud/user-data", text))
	must(t, r.Write("/var/lib/cloud/seed/nocloud/meta-data", "instance-id: "+r.Name+"\n"))
	must(t, r.Write("/etc/cloud/cloud.cfg.d/99-lab.cfg", "datasource_list: [NoCloud]\nnetwork: {config: disabled}\nlocale: false\nssh_genkeytypes: [ed25519]\n"))
	run0(t, "systemctl", "--root="+r.Dir, "enable", "cloud-init-local.service", "cloud-init.service", "cloud-config.service", "cloud-final.service")
}

// applied: cloud-init came to its end, and none of its modules failed.
func applied(t *testing.T, ctx context.Context, r *Root) {
	t.Helper()
	out, code := r.Run(ctx, "cloud-init status --long; cat /run/cloud-init/result.json")
	if !strings.Contains(out, "status: done") || !strings.Contains(out, `"errors": []`) {
		t.Fatalf("cloud-init on %s: exit %d: %s\n%s", r.Name, code, out, run(t, ctx, r, "cat /var/log/cloud-init-output.log"))
	}
	if out, code := r.Run(ctx, "cloud-init schema --config-file /var/lib/cloud/seed/nocloud/user-data"); code != 0 {
		t.Errorf("the user data of %s: exit %d: %s", r.Name, code, out)
	}
}

// wrote holds files against "path mode owner".
func wrote(t *testing.T, ctx context.Context, r *Root, files ...string) {
	t.Helper()
	for _, want := range files {
		path, _, _ := strings.Cut(want, " ")
		if out, code := r.Run(ctx, "stat -c '%n %a %U' "+path); code != 0 || strings.TrimSpace(out) != want {
			t.Errorf("on %s: %q, not %q", r.Name, strings.TrimSpace(out), want)
		}
	}
}

// credential: the server reads Consul with a token whose file its user cannot
// read, and whose copy no other user can.
func credential(t *testing.T, ctx context.Context, r *Root, token string) {
	t.Helper()
	const given = "/run/credentials/kerege-server.service/consul-token"
	must(t, lab.Until(ctx, 10*time.Second, "the server to read Consul", func() error {
		if out, code := r.Run(ctx, "kerege status"); code != 0 || !strings.Contains(out, "consul ok") {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	}))
	for _, path := range []string{"/etc/kerege.d/secrets/consul", given} {
		if _, code := r.Run(ctx, "setpriv --reuid nobody --regid nogroup --clear-groups cat "+path); code == 0 {
			t.Errorf("anybody reads %s", path)
		}
	}
	if out, _ := r.Run(ctx, "setpriv --reuid kerege-server --regid kerege-server --clear-groups cat /etc/kerege.d/secrets/consul"); strings.Contains(out, token) {
		t.Error("the server's user reads root's file: the credential proves nothing")
	}
	if out, _ := r.Run(ctx, "journalctl --no-pager; kerege status -json; cat /proc/$(systemctl show -P MainPID kerege-server)/environ"); strings.Contains(out, token) {
		t.Error("the token is in the journal, the status or the environment")
	}
}
