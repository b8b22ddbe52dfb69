package command

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

const (
	devNode      = "dev"
	maxDevEnvoys = 6 // each takes some 40 MiB
)

// devPlace is one instance that has an Envoy here.
type devPlace struct {
	Service   string         `json:"service"`
	Instance  string         `json:"instance"` // its name in the files, which is the workload's
	Accept    []envoy.Accept `json:"accept"`
	Upstreams []devUpstream  `json:"upstreams"`
}

func (p *devPlace) key() string { return p.Service + "/" + p.Instance }

// devUpstream is a service as one instance calls it.
type devUpstream struct {
	Service string `json:"service"`
	Port    uint16 `json:"port"`
	Name    string `json:"port_name,omitempty"`
	Address string `json:"address"` // what to call: a URL, or host:port where it is no HTTP
	Local   uint16 `json:"local_port"`
	Allowed string `json:"allowed"` // yes, some (requests), no
}

// devLayout is what a generation of files means on this machine.
type devLayout struct {
	places []devPlace // sorted by service and instance
	left   []string   // instances without an Envoy, each with the reason
}

// explicit is the layout in the agent's words.
func (l *devLayout) explicit() map[string]agent.Explicit {
	out := map[string]agent.Explicit{}
	for _, p := range l.places {
		x := agent.Explicit{Accept: p.Accept}
		for _, u := range p.Upstreams {
			x.Upstreams = append(x.Upstreams, envoy.Explicit{Service: mesh.ServiceName(u.Service), Port: u.Port, LocalPort: u.Local})
		}
		out[p.key()] = x
	}
	return out
}

// devLayouts makes layouts, and keeps each by the hash of its files: the same
// files are the same layout, and who has a port keeps it.
type devLayouts struct {
	mu    sync.Mutex
	ports *devPorts
	made  map[string]*devMade
}

type devMade struct {
	layout devLayout
	part   mesh.Part
}

func newDevLayouts(ports *devPorts) *devLayouts {
	return &devLayouts{ports: ports, made: map[string]*devMade{}}
}

// part is server.Options.Part.
func (d *devLayouts) part(m *config.Mesh) mesh.Part { return d.of(m).part }

// get is the layout of files that part was asked about.
func (d *devLayouts) get(hash string) (devLayout, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	made, ok := d.made[hash]
	if !ok {
		return devLayout{}, false
	}
	return made.layout, true
}

func (d *devLayouts) of(m *config.Mesh) *devMade {
	d.mu.Lock()
	defer d.mu.Unlock()
	made := d.made[m.Hash]
	if made == nil {
		made = d.make(m)
		d.made[m.Hash] = made
	}
	return made
}

// make moves every instance on loopback to the node dev and to a port of its
// Envoy; its application stays where the files say.
func (d *devLayouts) make(m *config.Mesh) *devMade {
	part := onThisHost(m.Part())
	snap, _ := mesh.Merge(part)
	part.Instances = nil
	for i := range part.Services {
		c := &part.Services[i]
		if len(c.Ports) == 0 { // its number is that of the application, not of an Envoy
			c.Ports = []mesh.Port{{Number: snap.Service(c.Name).Ports[0].Number, Pos: c.Pos}}
		}
	}
	out := &devMade{}
	chosen := d.choose(m.Instances, &out.layout)
	for i, in := range m.Instances {
		if !chosen[i] {
			in.Node = ""
			part.Instances = append(part.Instances, in)
			continue
		}
		place, moved, err := d.move(snap.Service(in.Service), in)
		if err == nil && slices.ContainsFunc(out.layout.places, func(p devPlace) bool { return p.key() == place.key() }) {
			err = fmt.Errorf("another instance is called %s, too", place.Instance)
		}
		if err != nil {
			out.layout.left = append(out.layout.left, fmt.Sprintf("%s/%s: %v", in.Service, in.ID, err))
			part.Instances = append(part.Instances, in)
			continue
		}
		part.Instances = append(part.Instances, moved...)
		out.layout.places = append(out.layout.places, place)
	}
	slices.SortFunc(out.layout.places, func(a, b devPlace) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	d.connect(snap, &out.layout)
	out.part = part
	return out
}

// onThisHost is a part whose instances are all here, whatever hosts it names.
func onThisHost(part mesh.Part) mesh.Part {
	var cfg mesh.Config
	if part.Mesh != nil {
		cfg = *part.Mesh
	}
	cfg.OneHost = true
	part.Mesh = &cfg
	part.Services, part.Defaults = slices.Clone(part.Services), slices.Clone(part.Defaults)
	for i := range part.Services {
		part.Services[i].Places = nil
	}
	for i := range part.Defaults {
		part.Defaults[i].Places = nil
	}
	return part
}

// choose says which instances get an Envoy: those of this machine, up to the
// limit, one of each service before the second of any.
func (d *devLayouts) choose(all []mesh.Instance, l *devLayout) map[int]bool {
	type candidate struct{ index, nth int }
	var local []candidate
	nth := map[mesh.ServiceName]int{}
	for i, in := range all {
		if !in.Addr.Addr().IsLoopback() {
			l.left = append(l.left, fmt.Sprintf("%s/%s: %s is not on loopback", in.Service, in.ID, in.Addr))
			continue
		}
		local = append(local, candidate{i, nth[in.Service]})
		nth[in.Service]++
	}
	slices.SortStableFunc(local, func(a, b candidate) int { return cmp.Compare(a.nth, b.nth) })
	chosen := map[int]bool{}
	for n, c := range local {
		if n >= maxDevEnvoys {
			l.left = append(l.left, fmt.Sprintf("%s/%s: dev runs at most %d Envoys", all[c.index].Service, all[c.index].ID, maxDevEnvoys))
			continue
		}
		chosen[c.index] = true
	}
	return chosen
}

// move gives an instance its Envoy's ports: one for each port of its service,
// registered as an instance of its own, since they cannot all have the number
// that the service's port has.
func (d *devLayouts) move(svc *mesh.Service, in mesh.Instance) (devPlace, []mesh.Instance, error) {
	place := devPlace{Service: string(in.Service), Instance: workloadName(in.ID), Upstreams: []devUpstream{}}
	var moved []mesh.Instance
	for _, port := range svc.Ports {
		app, ok := svc.EndpointPort(&in, port)
		if !ok {
			continue
		}
		number, err := d.ports.take("in "+place.key()+" "+port.String(), firstInbound)
		if err != nil {
			return place, nil, err
		}
		c := in
		c.Node, c.Workload = devNode, place.Instance
		c.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), number)
		if len(svc.Ports) > 1 {
			c.ID, c.PortName = in.ID+":"+port.String(), port.Name
		}
		moved = append(moved, c)
		place.Accept = append(place.Accept, envoy.Accept{Listen: c.Addr, App: app})
	}
	return place, moved, nil
}

// workloadName is an instance's name as a proxy's id may hold it.
func workloadName(id string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, id)
	if mesh.CheckNode(name) != nil {
		return "i-" + strings.Trim(name[:min(len(name), 40)], "-")
	}
	return name
}

// connect gives every instance a local port for every other service: also for
// those that refuse it now, so that a right given later needs nothing new.
func (d *devLayouts) connect(snap *mesh.Snapshot, l *devLayout) {
	for _, allowed := range []string{"yes", "some", "no"} { // the useful ones get the first numbers
		for i := range l.places {
			p := &l.places[i]
			for _, name := range snap.Services() {
				svc := snap.Service(name)
				if string(name) == p.Service || svc == nil {
					continue
				}
				for _, port := range svc.Ports {
					if mayCall(snap, mesh.ServiceName(p.Service), svc, port) != allowed {
						continue
					}
					local, err := d.ports.take(fmt.Sprintf("out %s %s:%d", p.key(), name, port.Number), firstUpstream)
					if err != nil {
						l.left = append(l.left, fmt.Sprintf("%s calls %s: %v", p.key(), name, err))
						continue
					}
					p.Upstreams = append(p.Upstreams, devUpstream{Service: string(name), Port: port.Number, Name: port.Name,
						Address: localAddress(port.Protocol, local), Local: local, Allowed: allowed})
				}
			}
		}
	}
	for i := range l.places {
		slices.SortFunc(l.places[i].Upstreams, func(a, b devUpstream) int {
			return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port))
		})
	}
}

func localAddress(p mesh.Protocol, port uint16) string {
	at := "127.0.0.1:" + strconv.Itoa(int(port))
	if p == mesh.ProtocolTCP || p == mesh.ProtocolTLS {
		return at
	}
	return "http://" + at
}

// mayCall says whether a service's calls to a port are let through: yes, no, or
// some of the requests.
func mayCall(snap *mesh.Snapshot, from mesh.ServiceName, svc *mesh.Service, port mesh.Port) string {
	list := snap.Intentions(svc.Name)
	req := policy.Request{From: mesh.ServiceIdentity(snap.Config().TrustDomain, from), To: svc.Name, Port: port.Name}
	if policy.Decide(list, svc.DefaultIntention, req).Allowed {
		return "yes"
	}
	if port.Protocol == mesh.ProtocolTCP || port.Protocol == mesh.ProtocolTLS {
		return "no"
	}
	for _, in := range list {
		for _, r := range in.Rules {
			if policy.HasHTTP(&r) && speaksOf(&r, string(from), port.Name) && (r.Action == mesh.ActionAllow || svc.DefaultIntention == mesh.ActionAllow) {
				return "some"
			}
		}
	}
	return "no"
}

func speaksOf(r *mesh.Permission, from, port string) bool {
	match := func(token string) bool { return mesh.MatchName(token, mesh.ServiceName(from)) }
	return slices.ContainsFunc(r.From, match) && !slices.ContainsFunc(r.Except, match) &&
		(len(r.Ports) == 0 || slices.Contains(r.Ports, port))
}
