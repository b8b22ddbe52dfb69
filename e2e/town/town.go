// Package town is a whole mesh in a lab: a server, hosts with agent, Envoy,
// capture and an ordinary program, and where asked a real Consul. The demo tells
// its story in one, the end-to-end suite breaks it.
//
// Promises: everything runs through the kerege binary as a user would run it.
package town

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/parts"
)

// The users of every host: a service's program and its Envoy are told apart by uid.
const (
	UIDApp   = 2001
	UIDEnvoy = 2002
)

// Town is a mesh in a lab.
type Town struct {
	Lab         *lab.Lab
	Server      *lab.Host
	ServerProc  *lab.Proc
	ConsulHost  *lab.Host // nil without Consul
	ConsulProc  *lab.Proc
	Hosts       map[string]*Host
	MeshFile    string
	ServerExtra string // more lines of server.hcl
	Kerege, App string // binaries, where every user of the hosts may run them
	EnvoyPath   string
}

// Host is one machine with one service on it.
type Host struct {
	*lab.Host
	Service, Version   string
	Program            []string // what the program is told; nil: to serve HTTP on :8080
	EnvoyExtra         string   // more lines of agent.hcl's envoy block
	AgentExtra         string   // more lines of agent.hcl
	CaptureExtra       string   // more lines of its capture block
	Agent, Envoy, Prog *lab.Proc
	RulesBefore        string
	town               *Town
}

// New makes the hosts; nothing runs yet. bin is the folder that `make build` fills.
func New(name, bin string, withConsul bool) (*Town, error) {
	envoy, err := parts.Find("envoy")
	if err != nil {
		return nil, err
	}
	t := &Town{Hosts: map[string]*Host{}}
	if t.Lab, err = lab.New(name); err != nil {
		return nil, err
	}
	for from, to := range map[string]*string{filepath.Join(bin, "kerege"): &t.Kerege, filepath.Join(bin, "app"): &t.App, envoy: &t.EnvoyPath} {
		if *to, err = t.Lab.Share(from); err != nil {
			return nil, errors.Join(fmt.Errorf("making a town (`make build` makes the binaries): %w", err), t.Close())
		}
	}
	if t.Server, err = t.Lab.Host("server"); err != nil {
		return t, errors.Join(err, t.Close())
	}
	if withConsul {
		if t.ConsulHost, err = t.Lab.Host("consul"); err != nil {
			return t, errors.Join(err, t.Close())
		}
	}
	return t, nil
}

// Close ends and removes everything.
func (t *Town) Close() error { return t.Lab.Close() }

// AddHost makes a host for one instance of a service.
func (t *Town) AddHost(ctx context.Context, name, service, version string) (*Host, error) {
	lh, err := t.Lab.Host(name)
	if err != nil {
		return nil, err
	}
	h := &Host{Host: lh, Service: service, Version: version, town: t}
	t.Hosts[name] = h
	h.RulesBefore, err = h.Rules(ctx)
	return h, err
}

// StartConsul runs a real Consul and waits for its leader.
func (t *Town) StartConsul(ctx context.Context) error {
	binary, err := parts.Find("consul")
	if err != nil {
		return err
	}
	addr := t.ConsulHost.IP.String()
	t.ConsulProc, err = t.ConsulHost.Start(lab.Spec{Name: "consul", Args: []string{binary, "agent", "-dev", "-node=consul",
		"-bind=" + addr, "-client=0.0.0.0", "-dns-port=53", "-log-level=warn"}})
	if err != nil {
		return err
	}
	return lab.Until(ctx, 20*time.Second, "Consul's leader", func() error {
		out, err := t.Consul(ctx, "operator", "raft", "list-peers")
		if err == nil && !strings.Contains(out, "leader") {
			return fmt.Errorf("no leader: %s", out)
		}
		return err
	})
}

// Consul runs consul's command line.
func (t *Town) Consul(ctx context.Context, args ...string) (string, error) {
	binary, err := parts.Find("consul")
	if err != nil {
		return "", err
	}
	return t.Server.Output(ctx, lab.Spec{Env: []string{"CONSUL_HTTP_ADDR=" + t.ConsulHost.IP.String() + ":8500"}, Args: append([]string{binary}, args...)})
}

// Register registers a host's instance in Consul's catalog, as a plain service
// on the host's own node, with no connect stanza.
func (t *Town) Register(ctx context.Context, h *Host) error { return t.SetHealth(ctx, h, "passing") }

// Deregister takes a host's instance out of Consul's catalog; with check, only
// that check of its node.
func (t *Town) Deregister(ctx context.Context, h *Host, check string) error {
	body := fmt.Sprintf(`{"Node":%q,"ServiceID":"%s-1"}`, h.Name, h.Service)
	if check != "" {
		body = fmt.Sprintf(`{"Node":%q,"CheckID":%q}`, h.Name, check)
	}
	return t.catalog(ctx, "deregister", body)
}

// Maintain puts a host's node into maintenance, as consul maint does.
func (t *Town) Maintain(ctx context.Context, h *Host) error {
	return t.catalog(ctx, "register", fmt.Sprintf(`{"Node":%q,"Address":%q,"Check":{"CheckID":"_node_maintenance","Name":"Node Maintenance Mode","Status":"critical"}}`, h.Name, h.IP))
}

func (t *Town) catalog(ctx context.Context, verb, body string) error {
	_, err := t.Server.Output(ctx, lab.Spec{In: strings.NewReader(body), Args: []string{"curl", "-sf", "-X", "PUT", "--data-binary", "@-",
		"http://" + t.ConsulHost.IP.String() + ":8500/v1/catalog/" + verb}})
	return err
}

// SetHealth registers it with a check in the given state.
func (t *Town) SetHealth(ctx context.Context, h *Host, status string) error {
	return t.catalog(ctx, "register", fmt.Sprintf(`{"Node":%q,"Address":%q,"Service":{"ID":"%[3]s-1","Service":%[3]q,"Port":8080,"Meta":{"version":%[4]q}},
		"Checks":[{"Node":%[1]q,"CheckID":"service:%[3]s-1","Name":"program","ServiceID":"%[3]s-1","Status":%[5]q}]}`,
		h.Name, h.IP, h.Service, h.Version, status))
}

// StartServer writes the server's settings and the mesh, starts it, and waits until it is ready.
func (t *Town) StartServer(ctx context.Context, mesh string) error {
	dir := filepath.Join(t.Server.Dir, "etc")
	t.MeshFile = filepath.Join(dir, "mesh", "mesh.hcl")
	if err := os.MkdirAll(filepath.Dir(t.MeshFile), 0o755); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.hcl"), []byte(t.serverSettings()), 0o644); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	if err := t.WriteMesh(mesh); err != nil {
		return err
	}
	return t.RunServer(ctx)
}

// WriteMesh replaces the mesh file; it is not live until `kerege apply`.
func (t *Town) WriteMesh(mesh string) error {
	if err := os.WriteFile(t.MeshFile, []byte(mesh), 0o644); err != nil {
		return fmt.Errorf("writing the mesh: %w", err)
	}
	return nil
}

// RunServer starts the server again on its own state.
func (t *Town) RunServer(ctx context.Context) error {
	var err error
	t.ServerProc, err = t.Server.Start(lab.Spec{Name: "server", Args: []string{t.Kerege, "server", "-config", filepath.Join(t.Server.Dir, "etc")}})
	if err != nil {
		return err
	}
	return lab.Until(ctx, 20*time.Second, "the server to be ready", func() error {
		select {
		case <-t.ServerProc.Done():
			return fmt.Errorf("it ended: %v: %s", t.ServerProc.Err(), t.ServerProc.Tail(2000))
		default:
		}
		out, code := t.Ask(ctx, "status", "-json")
		var st struct{ Ready bool }
		if err := json.Unmarshal([]byte(out), &st); err != nil || !st.Ready {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
}

// Ask runs a command against the server's local socket: what a terminal shows, and the exit code.
func (t *Town) Ask(ctx context.Context, args ...string) (string, int) {
	return t.Server.Combined(ctx, lab.Spec{Env: []string{"KEREGE_ADDR=unix://" + t.Server.Dir + "/run/server/api.sock"}, Args: append([]string{t.Kerege}, args...)})
}

// Apply makes a mesh live and fails with what the terminal shows if it cannot be.
func (t *Town) Apply(ctx context.Context, mesh string) error {
	if err := t.WriteMesh(mesh); err != nil {
		return err
	}
	if out, code := t.Ask(ctx, "apply"); code != 0 {
		return fmt.Errorf("kerege apply: exit %d: %s", code, out)
	}
	return nil
}
