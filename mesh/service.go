package mesh

import "net/netip"

// ServiceConfig is one service block, as written.
type ServiceConfig struct {
	Name ServiceName
	Tuning
	MTLS             MTLS
	DefaultIntention Action
	Sources          []SourceRef
	Ports            []Port
	Subsets          []Subset
	Pos              Pos
}

// SourceRef says where a service's instances are found when not under its own name.
type SourceRef struct {
	Kind        string // consul | nomad
	Service     string // "" is the block's name
	Datacenters []string
	Namespace   string
	Filter      string // bexpr over the instance
	Match       Matcher
	Pos         Pos
}

// Port is one port of a service, as its callers see it.
type Port struct {
	Name     string // "" where a service has just one that nobody named
	Number   uint16
	Protocol Protocol
	MTLS     MTLS
	Pos      Pos
}

// Subset is a part of a service's instances.
type Subset struct {
	Name   string
	Filter string // as written; two subsets are equal when their texts are
	Match  Matcher
	Pos    Pos
}

// Matcher decides whether an instance belongs to a subset. The config package
// compiles one from the filter's text; mesh only calls it.
type Matcher interface {
	Match(*Instance) bool
}

// Service is what the mesh makes of a service: its block, the defaults, and
// what its registries say, resolved. Every setting has its effective value.
type Service struct {
	Name             ServiceName
	Protocol         Protocol // block, registry metadata, defaults, else ProtocolUnknown
	MTLS             MTLS     // never unset
	DefaultIntention Action   // never unset
	Ports            []Port   // at least one once it has an instance or a declared port; Protocol and MTLS resolved
	Subsets          []Subset // sorted by name
	VIP4, VIP6       netip.Addr
	Tuning                       // resolved field by field; no nil pointer where there is a stated default
	Sources          []SourceRef // where its instances come from, as written
	Pos              Pos         // of its block; zero when only a registry knows it
}

// Health is what the registries say of an instance.
type Health uint8

const (
	Healthy   Health = iota // passing
	Warning                 // passing with a warning: serves, with its warning weight
	Unhealthy               // critical, or in maintenance
	Draining                // leaving: no new call
)

// Locality is where an instance is.
type Locality struct{ Region, Zone, SubZone string }

// Instance is one endpoint of one service, as one source says.
type Instance struct {
	Service    ServiceName
	ID         string // unique within its source
	Source     string // kind of registry: consul | nomad | file ("Source == nomad" in a filter)
	Registered string // the name it has there, if another
	Datacenter string
	Namespace  string
	Node       string // whose agent answers for it
	Workload   string // the Nomad allocation it belongs to, else ""
	Job        string // the Nomad job that allocation belongs to, else ""
	Addr       netip.AddrPort
	PortName   string
	Protocol   Protocol // from metadata kerege-protocol, else unknown
	Tags       []string // sorted
	Meta       map[string]string
	NodeMeta   map[string]string
	Tagged     map[string]netip.AddrPort // tagged addresses: lan, wan, ...
	Weight     uint32                    // ≥ 1
	Health     Health
	Locality   Locality
	Pos        Pos // of its block, for a file's

	// Set by Merge:
	In         bool        // from the members: captured and identified, only reached by mTLS
	Barred     string      // why no caller may have it, one sentence's end; "": nothing is against it
	Allocation *Allocation // what Nomad says of its allocation; nil: nobody knows, or it is none
}

// Member is a durable fact from a node's agent: the service's instances at this
// place are in the mesh.
type Member struct {
	Service  ServiceName
	Node     string
	Workload string
	Addrs    []netip.Addr // empty: every address that the registries give on Node
	Ports    []uint16     // empty: every port
}

// VIP is a service's durable virtual IPv4 address.
type VIP struct {
	Service ServiceName
	V4      netip.Addr
}

// Pair keeps a caller's view of a destination for a while after its right is lost.
type Pair struct{ From, To ServiceName }
