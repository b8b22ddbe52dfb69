package dns

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
)

// Name is a mesh name with its virtual addresses.
type Name struct {
	Service string
	V4, V6  netip.Addr // an invalid one is no record
	Consul  bool       // also <service>.service.consul, of the local datacenter
}

// ttl is short: a service that leaves the mesh gets its old addresses back soon.
const ttl = 5 // seconds

// zone is all mesh names of the moment: read without a lock, replaced whole.
type zone struct {
	domain     string // "mesh."
	datacenter string // "dc1" or ""
	names      atomic.Pointer[map[string]Name]
}

func newZone(domain, datacenter string) *zone {
	return &zone{domain: dns.CanonicalName(domain), datacenter: strings.ToLower(datacenter)}
}

func (z *zone) set(list []Name) {
	table := make(map[string]Name, 2*len(list))
	for _, n := range list {
		service := strings.ToLower(n.Service)
		table[service+"."+z.domain] = n
		if !n.Consul {
			continue
		}
		table[service+".service.consul."] = n
		if z.datacenter != "" {
			table[service+".service."+z.datacenter+".consul."] = n
		}
	}
	z.names.Store(&table)
}

// answer answers a question that is the zone's own; nil when it is not. Of a
// Consul name only addresses are: everything else about it is Consul's to say.
func (z *zone) answer(q dns.Question) *dns.Msg {
	name := dns.CanonicalName(q.Name)
	ours := dns.IsSubDomain(z.domain, name)
	m := &dns.Msg{}
	table := z.names.Load()
	switch {
	case ours && q.Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused // a mesh name is never anybody else's to answer
		return m
	case ours && table == nil:
		m.Rcode = dns.RcodeServerFailure // not known yet is not unknown
		return m
	case table == nil:
		return nil
	}
	n, known := (*table)[name]
	address := q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA
	if !ours && (!known || !address || q.Qclass != dns.ClassINET) {
		return nil
	}
	m.Authoritative = true
	if !known && name != z.domain {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{z.soa()}
		return m
	}
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch {
	case q.Qtype == dns.TypeA && n.V4.Is4():
		m.Answer = []dns.RR{&dns.A{Hdr: header, A: n.V4.AsSlice()}}
	case q.Qtype == dns.TypeAAAA && n.V6.Is6():
		m.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: n.V6.AsSlice()}}
	default:
		m.Ns = []dns.RR{z.soa()} // the name is there, this record is not
	}
	return m
}

func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: z.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "kerege." + z.domain, Mbox: "kerege." + z.domain, Serial: 1, Refresh: 60, Retry: 10, Expire: 600, Minttl: ttl,
	}
}
