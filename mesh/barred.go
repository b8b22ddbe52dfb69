package mesh

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Places is where a service's instances may be: on one of the nodes or in one of
// the jobs. Whatever a registry says, an instance elsewhere is held, and its node
// is not given the service's identity.
type Places struct {
	Nodes []string // names, "prefix-*" or "*"
	Jobs  []string // of Nomad, likewise
	Pos   Pos
}

// Name says whether the places name an instance's.
func (p *Places) Name(in *Instance) bool {
	named := func(patterns []string, name string) bool {
		return name != "" && slices.ContainsFunc(patterns, func(x string) bool { return MatchName(x, ServiceName(name)) })
	}
	return named(p.Nodes, in.Node) || in.Source == "nomad" && named(p.Jobs, in.Job)
}

// String is as the block says it.
func (p *Places) String() string {
	var list []string
	for _, x := range []struct {
		name     string
		patterns []string
	}{{"nodes", p.Nodes}, {"jobs", p.Jobs}} {
		if x.patterns != nil {
			var quoted []string
			for _, s := range x.patterns {
				quoted = append(quoted, strconv.Quote(s))
			}
			list = append(list, x.name+" = ["+strings.Join(quoted, ", ")+"]")
		}
	}
	return strings.Join(list, ", ")
}

// placesOf are a service's: its block's, else those of the narrowest defaults block that has any.
func (s *Snapshot) placesOf(name string, block *ServiceConfig) *Places {
	if block != nil && block.Places != nil {
		return block.Places
	}
	for _, d := range s.defaults {
		if d.Places != nil && MatchName(d.Label, ServiceName(name)) {
			return d.Places
		}
	}
	return nil
}

// barred is why no caller may have an instance, one sentence's end; "" when
// nothing is against it.
func (s *Snapshot) barred(places *Places, in *Instance) string {
	if !callable(in.Addr.Addr(), s.Config().OneHost) {
		return "its address " + in.Addr.Addr().String() + " cannot be called from another host"
	}
	if places == nil || places.Name(in) {
		return ""
	}
	where := in.Node
	if where == "" {
		where = "no node"
	}
	if in.Job != "" {
		where += ", job " + in.Job
	}
	why := "it is on " + where + ", and its service is pinned to " + places.String()
	if places.Pos.File != "" {
		why += " (" + places.Pos.String() + ")"
	}
	return why
}

// uncallable are: the mesh's virtual addresses, this host's own network, and
// where a cloud keeps a machine's secrets (its IPv4 one is a link's).
var uncallable = []netip.Prefix{
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fd6b:6572:6567::/48"),
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("fd00:ec2::254/128"),
}

// Callable says whether other hosts may be told to call an address: it is none
// of loopback, multicast, nobody's or this link's, a cloud's metadata service or a
// virtual one of the mesh. A registry's word must not send callers to theirs.
func Callable(a netip.Addr) bool { return callable(a, false) }

func callable(a netip.Addr, oneHost bool) bool {
	a = a.Unmap()
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return false
	case a.IsLoopback():
		return oneHost
	}
	return !slices.ContainsFunc(uncallable, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Barred is why a node may not have an instance of a service that a registry
// places there; "" when nothing bars it.
func (s *Snapshot) Barred(node string, name ServiceName, workload string) string {
	why := ""
	for _, in := range s.Instances(name) {
		if in.Node != node || in.Workload != workload {
			continue
		}
		if in.Barred == "" {
			return ""
		}
		why = in.Barred
	}
	return why
}

// allElsewhere reports places that keep out every instance there is.
func (rec *record) allElsewhere(name string, places *Places) {
	if places == nil || len(rec.instances) == 0 || slices.ContainsFunc(rec.instances, func(in *Instance) bool { return places.Name(in) }) {
		return
	}
	rec.conflict(Key{KindInstances, name}, "All instances of "+name+" that are registered ("+strconv.Itoa(len(rec.instances))+") are kept from callers: it is pinned to "+
		places.String()+", and "+who(rec.instances[0])+" is elsewhere.", places.Pos)
}
