package mesh

import (
	"slices"
	"strconv"
)

// Served is a durable fact: the ports at which a service is called, and the
// protocols its registries gave it, at the time when it was last served. They
// stay until a service block says otherwise or all instances that serve agree on
// others, so that nobody moves a service's port by registering one instance more.
type Served struct {
	Service  ServiceName
	Protocol Protocol     // what its registries say of it as a whole; unknown too is an answer
	Ports    []ServedPort // sorted by number
}

// ServedPort is one port that is served.
type ServedPort struct {
	Number   uint16
	Protocol Protocol // what its instances' registries say
}

// Nomad's range of dynamic ports, as it is unless a client's configuration has another.
const (
	dynamicFirst = 20000
	dynamicLast  = 32000
)

// portVote is the port that an instance speaks for: its own. A port that Nomad
// drew by lot is no address that anybody could know, and the next allocation has
// another: such an instance speaks for the default port.
func portVote(in *Instance) uint16 {
	if n := in.Application(in.Addr); n != in.Addr.Port() {
		return n // as it is in each of its allocations
	}
	if n := in.Addr.Port(); in.Workload == "" || n < dynamicFirst || n > dynamicLast {
		return n
	}
	return DefaultPort
}

// serving are the instances that callers may have: their word counts, also that
// of one that shares its address or id with another.
func (rec *record) serving(mtls MTLS) []*Instance {
	return slices.DeleteFunc(slices.Clone(rec.voters), func(in *Instance) bool { return in.Barred != "" || mtls == MTLSStrict && !in.In })
}

// agreed is what all of a list say, if it is one thing.
func agreed[T comparable](list []*Instance, say func(*Instance) T) (v T, ok bool) {
	for i, in := range list {
		if i > 0 && say(in) != v {
			var none T
			return none, false
		}
		v = say(in)
	}
	return v, len(list) > 0
}

func protocolOf(in *Instance) Protocol { return in.Protocol }

// ports are the declared ones; else the one that all instances that serve agree
// on, the one served before, the one that all registered instances share, 80.
func (rec *record) ports(block *ServiceConfig, serving []*Instance, before *Served) []Port {
	if len(block.Ports) > 0 {
		list := slices.Clone(block.Ports)
		slices.SortStableFunc(list, func(a, b Port) int { return int(a.Number) - int(b.Number) })
		return list
	}
	if n, ok := agreed(serving, portVote); ok {
		return []Port{{Number: n}}
	}
	if before != nil && len(before.Ports) == 1 {
		return []Port{{Number: before.Ports[0].Number}}
	}
	if n, ok := agreed(rec.voters, portVote); ok && len(serving) == 0 {
		return []Port{{Number: n}}
	}
	return []Port{{Number: DefaultPort}}
}

// protocol is what the registries say of a service, by the same order of trust.
// The first time those that say nothing do not count.
func (rec *record) protocol(serving []*Instance, before *Served) Protocol {
	if p, ok := agreed(serving, protocolOf); ok {
		return p
	}
	if before != nil {
		return before.Protocol
	}
	if len(serving) == 0 {
		serving = rec.voters
	}
	return spoken(serving)
}

// portProtocol is what the registries say of one port of several.
func (rec *record) portProtocol(svc *Service, p Port, serving []*Instance, before *Served) Protocol {
	of := func(list []*Instance, mine func(*Instance) bool) []*Instance {
		return slices.DeleteFunc(slices.Clone(list), func(in *Instance) bool { return !mine(in) })
	}
	registered := func(in *Instance) bool {
		return in.PortName != "" && in.PortName == p.Name || in.PortName == "" && in.Addr.Port() == p.Number
	}
	answering := of(serving, func(in *Instance) bool { _, ok := svc.EndpointPort(in, p); return ok })
	if !slices.ContainsFunc(answering, func(in *Instance) bool { return !registered(in) }) {
		if proto, ok := agreed(answering, protocolOf); ok {
			return proto
		}
	}
	if before != nil {
		for _, b := range before.Ports {
			if b.Number == p.Number {
				return b.Protocol
			}
		}
	}
	if len(answering) == 0 {
		answering = rec.voters
	}
	return spoken(of(answering, registered))
}

// spoken is the one protocol that those of a list that name one name.
func spoken(list []*Instance) Protocol {
	p, _ := agreed(slices.DeleteFunc(slices.Clone(list), func(in *Instance) bool { return in.Protocol == "" }), protocolOf)
	return p
}

// odd reports the instances that speak for another port or protocol than the
// one that callers have.
func (rec *record) odd(svc *Service, block *ServiceConfig, proto Protocol) {
	name := string(svc.Name)
	key := Key{KindService, name}
	if len(block.Ports) == 0 {
		n := svc.Ports[0].Number
		if in, more := firstOf(rec.instances, func(in *Instance) bool { return portVote(in) != n && portVote(in) == in.Addr.Port() }); in != nil {
			rec.conflict(key, "The instance "+who(in)+more+" of "+name+" is at port "+strconv.Itoa(int(in.Addr.Port()))+", and callers have "+name+" at port "+
				strconv.Itoa(int(n))+", which stays. To say which port is meant: service "+Quote(name)+" { port \"main\" { port = … } }", in.Pos)
		}
	}
	if block.Protocol == "" && len(block.Ports) < 2 && (len(block.Ports) == 0 || block.Ports[0].Protocol == "") {
		if in, more := firstOf(rec.instances, func(in *Instance) bool { return in.Protocol != "" && in.Protocol != proto }); in != nil {
			is := string(proto)
			if proto == "" {
				is = "found out for each connection"
			}
			rec.conflict(key, "The instance "+who(in)+more+" of "+name+" says protocol "+string(in.Protocol)+", and "+name+"'s is "+is+
				", which stays. To say which is meant: service "+Quote(name)+" { protocol = … }", in.Pos)
		}
	}
}

// firstOf is the first instance of a kind, and how many more there are, in words.
func firstOf(list []*Instance, is func(*Instance) bool) (*Instance, string) {
	var found *Instance
	n := 0
	for _, in := range list {
		if !is(in) {
			continue
		}
		if n++; found == nil {
			found = in
		}
	}
	if n < 2 {
		return found, ""
	}
	return found, " (and " + strconv.Itoa(n-1) + " more)"
}

func who(in *Instance) string {
	id := in.ID
	if id == "" {
		id = in.Addr.String()
	}
	if in.Node == "" {
		return Quote(id)
	}
	return Quote(id) + " on " + Quote(in.Node)
}

// Served is what a service serves now, for the durable table; false when no
// caller may have an instance of it.
func (s *Snapshot) Served(name ServiceName) (Served, bool) {
	rec := s.records.get(string(name))
	if rec == nil || rec.served == nil {
		return Served{}, false
	}
	return *rec.served, true
}
