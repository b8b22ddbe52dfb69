package agent

import (
	"strings"
	"time"

	"github.com/kerege/kerege/agent/relay"
	"github.com/kerege/kerege/api"
)

// Status is the node on one screen. It looks at memory only.
func (a *Agent) Status() api.AgentStatus {
	out := api.AgentStatus{Node: a.node(), Version: a.opt.Version, Steps: []api.AgentStep{}, Workloads: []api.AgentWorkload{}, Disk: a.memory.problem()}
	m, joined := a.id.Mesh()
	out.Joined, out.TrustDomain = joined, m.TrustDomain
	if s := a.id.Node(); s != nil {
		out.Expires = s.NotAfter
		if time.Now().After(s.NotAfter) {
			out.Warnings = append(out.Warnings, "this node's certificate has expired; open connections go on, new ones do not. It is renewed when a server answers, else: kerege join")
		}
	}
	if t := a.id.Trouble(); t != "" {
		out.Warnings = append(out.Warnings, t)
	}
	a.mu.Lock()
	l, list, s := a.ladder, a.workloads, a.servers
	out.Servers.Error = a.nodeErr
	up := a.nodeUp
	a.mu.Unlock()
	if l != nil {
		out.Steps = l.status()
	}
	out.Servers.Addresses = a.known(m.Servers)
	if s != nil {
		out.Servers.Addresses, _ = s.state()
	}
	out.Servers.Connected = up
	accepted := map[string]bool{}
	a.memory.look(func(st *state) {
		out.Names, out.Evicted, out.Servers.Heard = len(st.Names), st.Evicted, st.Heard
		for _, k := range st.Accepted {
			accepted[k] = true
		}
	})
	if !up && !out.Servers.Heard.IsZero() {
		out.Servers.AgeSeconds = time.Since(out.Servers.Heard).Seconds()
	}
	for _, w := range list {
		out.Workloads = append(out.Workloads, a.row(w, accepted[w.key()]))
	}
	return out
}

// row is one workload.
func (a *Agent) row(w *workload, accepted bool) api.AgentWorkload {
	a.mu.Lock()
	st, known := a.states[w.key()]
	r := a.proxies[w.key()]
	a.mu.Unlock()
	if !known {
		st = a.stands(w)
		if st.state == "joining" && st.reason == "" {
			st.reason = "its capture was not looked at yet"
		}
	}
	out := api.AgentWorkload{Service: w.Service, Workload: w.placement.Workload, Ports: w.Ports, Addresses: w.Addresses, Source: w.Source,
		FoundBy: w.who.by, User: w.who.user, UID: w.who.uid, PID: w.who.pid, Netns: w.who.netns, Slice: w.who.slice,
		State: st.state, Reason: st.reason, Accepted: accepted}
	if out.Ports == nil {
		out.Ports = []uint16{}
	}
	if w.dir == "" {
		return out
	}
	out.InboundPort, out.OutboundPort = w.inbound(), w.outbound()
	if s := a.id.Get(holder(w)); s != nil {
		out.Expires = s.NotAfter
	}
	out.Proxy = api.AgentProxy{ID: w.id.String(), Dir: w.dir, Source: string(relay.None), Types: []api.ProxyType{}}
	if r != nil {
		a.describe(r.relay, &out.Proxy)
	}
	return out
}

func (a *Agent) describe(p *relay.Proxy, out *api.AgentProxy) {
	st := p.Status()
	out.Envoys, out.Envoy, out.Connected, out.Source, out.Error, out.Disk = st.Envoys, st.Envoy, st.Connected, string(st.Source), st.Error, st.Disk
	out.Ready, out.Why = p.Ready()
	if !st.Connected && !st.Fresh.IsZero() {
		out.AgeSeconds = time.Since(st.Fresh).Seconds()
	}
	for _, t := range st.Types {
		row := api.ProxyType{Type: t.Type[strings.LastIndexByte(t.Type, '.')+1:], State: string(t.State), Resources: t.Resources}
		for _, r := range t.Refused {
			row.Nack = r.Name + ": " + r.Words
			break
		}
		out.Types = append(out.Types, row)
	}
}

// ready answers GET /v1/ready.
func (a *Agent) ready(service, workload string) api.AgentReady {
	a.mu.Lock()
	list := a.workloads
	a.mu.Unlock()
	for _, w := range list {
		if w.key() != key(service, workload) {
			continue
		}
		return readiness(a.row(w, false))
	}
	why := "no registry places " + key(service, workload) + " on this node, as far as is known yet"
	if err := a.standing("identity"); err != nil {
		why = err.Error()
	}
	return api.AgentReady{State: "unknown", Why: why}
}

// readiness is whether an application may start behind its proxy. Envoy takes in
// listeners that have no certificate yet, and nobody is called or answered by them;
// one that has ended is no reason to keep the application down, the servers may be
// away.
func readiness(row api.AgentWorkload) api.AgentReady {
	out := api.AgentReady{Ready: row.Proxy.Ready && !row.Expires.IsZero(), State: row.State, Why: row.Proxy.Why}
	switch {
	case out.Ready:
	case row.Reason != "": // what comes first
		out.Why = row.Reason
	case row.Proxy.Ready:
		out.Why = "no certificate yet"
	}
	return out
}
