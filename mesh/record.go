package mesh

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// record is what the parts together make of one name.
type record struct {
	service    *Service // nil: no such service
	instances  []*Instance
	voters     []*Instance // before those named twice were dropped; only while the record is made
	route      *Route
	intentions []*Intention
	tokens     []string // callers that the intentions name
	retained   []string // destinations kept for the caller of that name
	served     *Served  // what callers have now; nil: no instance
	conflicts  []Conflict
}

// blockOf is the service block of a name: the first, where there are several.
func (s *Snapshot) blockOf(name string) *ServiceConfig {
	for _, r := range s.sources.get(name) {
		if len(r.slot.blocks) > 0 {
			return r.slot.blocks[0]
		}
	}
	return nil
}

// compute makes the record of a name from the parts; old is the one before,
// whose pieces are kept where they are equal.
func (s *Snapshot) compute(name string, old *record) *record {
	refs := s.sources.get(name)
	rec := &record{}
	var blocks []*ServiceConfig
	var routes []*Route
	var members []*Member
	var vips []netip.Addr
	var before *Served
	for _, r := range refs {
		blocks = append(blocks, r.slot.blocks...)
		routes = append(routes, r.slot.routes...)
		rec.intentions = append(rec.intentions, r.slot.intentions...)
		members = append(members, r.slot.members...)
		vips = append(vips, r.slot.vips...)
		if before == nil {
			before = r.slot.served
		}
		rec.retained = append(rec.retained, r.slot.retained...)
	}
	slices.Sort(rec.retained)
	rec.retained = slices.Compact(rec.retained)
	rec.tokens = callersOf(rec.intentions)
	var block *ServiceConfig
	if len(blocks) > 0 {
		block = blocks[0]
	}
	if len(routes) > 0 {
		rec.route = routes[0]
	}
	if CheckName(name) == nil {
		rec.gather(s, name, block, members)
	} else {
		rec.refuse(s, name)
	}
	if block != nil || len(rec.instances) > 0 || len(rec.intentions) > 0 && !IsPattern(name) {
		rec.service = s.resolve(name, block, rec, vips, before)
	}
	for _, b := range blocks[min(1, len(blocks)):] {
		rec.conflict(Key{KindService, name}, "There are two service blocks "+Quote(name)+"; the first counts.", block.Pos, b.Pos)
	}
	for _, r := range routes[min(1, len(routes)):] {
		rec.conflict(Key{KindRoute, name}, "There are two route blocks "+Quote(name)+"; the first counts.", rec.route.Pos, r.Pos)
	}
	rec.voters = nil
	if old != nil {
		rec.keep(old)
	}
	return rec
}

func (rec *record) conflict(k Key, what string, where ...Pos) {
	rec.conflicts = append(rec.conflicts, Conflict{Key: k, Where: where, What: what})
}

// keep takes over the pieces of old that are equal.
func (rec *record) keep(old *record) {
	for i, in := range rec.instances {
		j, found := slices.BinarySearchFunc(old.instances, in.Addr, func(o *Instance, a netip.AddrPort) int { return o.Addr.Compare(a) })
		if found && equalInstance(in, old.instances[j]) {
			rec.instances[i] = old.instances[j]
		}
	}
	if slices.Equal(rec.instances, old.instances) {
		rec.instances = old.instances
	}
	if equalService(rec.service, old.service) {
		rec.service = old.service
	}
}

// refuse reports the instances under a registry's name that is no name of the
// mesh, unless a block takes them under a name of its own.
func (rec *record) refuse(s *Snapshot, name string) {
	for _, in := range s.unclaimed(name) {
		rec.conflict(Key{KindInstances, name}, "The instance "+Quote(in.ID)+" from "+Quote(in.Source)+
			" is refused: its service's name "+Quote(name)+" "+CheckName(name).Error()+
			". A service block with source { service = "+Quote(name)+" } gives it a name of the mesh.", in.Pos)
	}
}

// callersOf lists the callers that intentions name. A deny of "*" names nobody:
// it says the same as the default to whom no other rule speaks of.
func callersOf(list []*Intention) []string {
	var tokens []string
	for _, in := range list {
		for _, r := range in.Rules {
			for _, f := range r.From {
				if f != "*" || r.Action == ActionAllow {
					tokens = append(tokens, f)
				}
			}
		}
	}
	slices.Sort(tokens)
	return slices.Compact(tokens)
}

// resolve makes the effective service.
func (s *Snapshot) resolve(name string, block *ServiceConfig, rec *record, vips []netip.Addr, before *Served) *Service {
	if block == nil {
		block = &ServiceConfig{Name: ServiceName(name)}
	}
	cfg := s.Config()
	mtls := block.MTLS
	first(&mtls, cfg.MTLS)
	serving := rec.serving(mtls)
	proto := rec.protocol(serving, before)
	svc := &Service{
		Name: ServiceName(name), MTLS: mtls, DefaultIntention: block.DefaultIntention,
		Subsets: slices.Clone(block.Subsets), Sources: block.Sources, Pos: block.Pos,
		Tuning: block.Tuning.resolve(ServiceName(name), proto, s.defaults), VIP6: vip6(name),
	}
	svc.Protocol, svc.Tuning.Protocol = svc.Tuning.Protocol, ""
	first(&svc.DefaultIntention, cfg.DefaultIntention)
	slices.SortStableFunc(svc.Subsets, func(a, b Subset) int { return strings.Compare(a.Name, b.Name) })
	svc.Ports = rec.ports(block, serving, before)
	now := &Served{Service: svc.Name, Protocol: proto}
	for i := range svc.Ports {
		p := &svc.Ports[i]
		said := proto
		if len(svc.Ports) > 1 {
			said = rec.portProtocol(svc, *p, serving, before)
			if block.Protocol == "" {
				first(&p.Protocol, said)
			}
		}
		now.Ports = append(now.Ports, ServedPort{p.Number, said})
		first(&p.Protocol, svc.Protocol)
		first(&p.MTLS, svc.MTLS)
	}
	if len(serving) > 0 {
		rec.served = now
	}
	rec.odd(svc, block, proto)
	for _, v := range vips {
		if !svc.VIP4.IsValid() {
			svc.VIP4 = v
		} else if v != svc.VIP4 {
			rec.conflict(Key{KindService, name}, "The service "+name+" has two virtual addresses, "+svc.VIP4.String()+" and "+v.String()+"; the first counts.")
		}
	}
	return svc
}

// vip6 is the service's virtual IPv6 address: 80 bits of its name's hash in
// fd6b:6572:6567::/48, so that nobody needs to keep a table.
func vip6(name string) netip.Addr {
	a := [16]byte{0xfd, 0x6b, 0x65, 0x72, 0x65, 0x67}
	h := sha256.Sum256([]byte(name))
	copy(a[6:], h[:])
	return netip.AddrFrom16(a)
}

// EndpointPort is where an instance answers calls to a port of the service. With
// one port it is the instance's own registered address. With several it is that
// for the port of the same name or number, and the port's number at the
// instance's address for the others; an instance registered for one named port
// does not answer for another (false).
func (svc *Service) EndpointPort(in *Instance, p Port) (netip.AddrPort, bool) {
	if len(svc.Ports) <= 1 || in.PortName != "" && in.PortName == p.Name {
		return in.Addr, true
	}
	if in.PortName != "" && slices.ContainsFunc(svc.Ports, func(o Port) bool { return o.Name == in.PortName }) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(in.Addr.Addr(), p.Number), true
}

// String is "http" or, for a port without a name, its number.
func (p Port) String() string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Number))
}
