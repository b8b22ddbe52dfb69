package server

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
	"github.com/kerege/kerege/xds/serve"
)

// proxiesOf is GET /v1/proxies: a line a proxy; of two streams of one proxy the
// newer counts.
func proxiesOf(now time.Time, snap *mesh.Snapshot, streams []serve.ProxyStatus, problems func(mesh.ProxyID) []plan.Problem) []api.Proxy {
	newest := map[string]serve.ProxyStatus{}
	for _, st := range streams {
		if old, ok := newest[st.ID]; !ok || st.Serial > old.Serial {
			newest[st.ID] = st
		}
	}
	all := make([]api.Proxy, 0, len(newest))
	for _, st := range newest {
		all = append(all, proxyOf(now, snap, st, problems))
	}
	slices.SortFunc(all, func(a, b api.Proxy) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func proxyOf(now time.Time, snap *mesh.Snapshot, st serve.ProxyStatus, problems func(mesh.ProxyID) []plan.Problem) api.Proxy {
	p := api.Proxy{ID: st.ID, Connected: true, Since: st.Since, State: string(delta.Synced), Messages: st.Messages, Bytes: st.Bytes, Types: []api.ProxyType{}}
	if id, err := mesh.ParseProxyID(st.ID); err == nil {
		p.Node = id.Node
		for _, problem := range problems(id) {
			text := problem.What
			if w := where(problem.Pos); w != "" {
				text = w + ": " + text
			}
			p.Problems = append(p.Problems, text)
		}
	}
	if st.Waiting || st.Behind {
		p.State = string(delta.Stale)
	}
	for _, ts := range st.Types {
		if ts.State == delta.Unasked {
			continue
		}
		k := api.ProxyType{Type: shortType(ts.Type), State: string(ts.State), Resources: len(ts.Versions)}
		if ts.State == delta.Stale {
			k.LagSeconds = now.Sub(ts.Since).Seconds()
			if p.State == string(delta.Synced) {
				p.State = string(delta.Stale)
			}
		}
		if len(ts.Nacks) > 0 {
			n := ts.Nacks[0]
			k.Nack = fmt.Sprintf("%s: %s", n.Name, n.Words)
			k.Cause = causeOf(snap, n.Cause)
			p.State = string(delta.Nacked)
		}
		p.Types = append(p.Types, k)
	}
	return p
}

// shortType is a type URL's last word: Cluster, Listener, …
func shortType(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }

// causeOf is the line of HCL that a resource came from, as far as there is one.
func causeOf(snap *mesh.Snapshot, cause any) string {
	key, ok := cause.(mesh.Key)
	if !ok {
		return ""
	}
	name := mesh.ServiceName(key.Name)
	switch key.Kind {
	case mesh.KindRoute:
		if r := snap.Route(name); r != nil {
			return where(r.Pos) + " (route \"" + key.Name + "\")"
		}
	case mesh.KindIntention:
		for _, in := range snap.Labelled(key.Name) {
			return where(in.Pos) + " (intention \"" + key.Name + "\")"
		}
	}
	if svc := snap.Service(name); svc != nil {
		if w := where(svc.Pos); w != "" {
			return w + " (service \"" + key.Name + "\")"
		}
		return "service \"" + key.Name + "\", known from a registry"
	}
	return ""
}

func countsOf(all []api.Proxy) (c api.ProxyCounts) {
	for _, p := range all {
		switch p.State {
		case string(delta.Synced):
			c.Synced++
		case string(delta.Nacked):
			c.Nacked++
		default:
			c.Stale++
		}
	}
	return c
}
