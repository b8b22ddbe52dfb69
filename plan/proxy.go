package plan

import (
	"net/netip"
	"time"

	"github.com/kerege/kerege/mesh"
)

// Node is what a proxy says of itself when it connects: who it is (its socket
// proves it) and how traffic reaches it.
type Node struct {
	ID           mesh.ProxyID
	InboundPort  uint16       // where captured inbound traffic arrives; 0: no capture
	OutboundPort uint16       // where captured outbound traffic arrives; 0: no capture
	Explicit     []Explicit   // listeners on loopback instead of capture (kerege dev)
	Accept       []Accept     // without capture: where each port's calls arrive, and where the application is
	Bridge       []netip.Addr // the host's own on the network of the proxy's namespace; none: it is in the host's
	NoIPv6       bool         // the host's kernel has no IPv6: a listener there would be refused
}

// Explicit is a service reached at 127.0.0.1:LocalPort.
type Explicit struct {
	Service   mesh.ServiceName
	Port      uint16 // the service's port
	LocalPort uint16
}

// Accept is how one port of the workload is reached where nothing is captured:
// the instance is registered at Listen, where its Envoy opens the port (so that
// Inbound.Number is Listen's), and its application listens on App.
type Accept struct {
	Listen netip.AddrPort
	App    netip.AddrPort
}

// Proxy is everything one Envoy must do. Read this file first.
//
// What many proxies share (Upstream, Policy) is compiled once and shared by
// pointer: two proxies with the same pointer have the same bytes.
type Proxy struct {
	Node     Node
	Identity mesh.Identity
	Inbound  []*Inbound   // sorted by port
	Checks   []mesh.Probe // of the inbound ports that the host asks in plaintext, sorted; one that comes From no address comes from Node.Bridge
	Outbound []*Upstream  // sorted by service
	Outside  Outside
}

// Outside says what happens to captured traffic that no upstream matches.
type Outside struct {
	Mode   mesh.Outbound
	Caller mesh.ServiceName // named in the refusal
}

// Inbound is one port of the application, as callers reach it through its proxy.
type Inbound struct {
	Service  mesh.ServiceName
	Number   uint16 // where the application listens: what arrives here is for it
	Port     uint16 // the service's port that it answers for: the one in the SNI and in Policy.Name
	Name     string // of the service's port; "" if it has none
	Protocol mesh.Protocol
	MTLS     mesh.MTLS
	Policy   *Policy
	Cause    mesh.Key
}

// Policy is who may call one port of one service, ready to be said in Envoy's
// words. Shared by all proxies of the service.
type Policy struct {
	Name        string // "<service>:<port number>", names the ECDS and SDS resources
	TrustDomain string
	Bundle      []byte      // PEM of the trusted roots
	Default     mesh.Action // what a call meets that no permission speaks of
	// Deny and Allow are the permissions that hold on this port; their Ports are
	// dropped. On a tcp or tls port an allow with HTTP conditions is left out and
	// a deny with HTTP conditions is a deny of everything, as policy.Decide has it.
	Deny  []mesh.Permission
	Allow []mesh.Permission
	// Callers who may open a TCP connection to the port, as policy.Decide answers
	// for a call that is not HTTP. Any: everyone with an identity of this trust
	// domain, less the Deniers. Empty and not Any: nobody. On an http, http2 or
	// grpc port the permissions decide, and these say nothing.
	Callers   []mesh.Identity
	AnyCaller bool
	Deniers   []mesh.Identity // under AnyCaller: those who may not
	Plaintext bool            // may a caller without a certificate open a TCP connection, where mtls lets it in at all
	Away      []string        // marks that are believed no more: who has one in its certificate is refused
	Open      []byte          // by what nodes judge what is open on the port, as policy.ReadRules reads it
	Cause     mesh.Key
}

// Upstream is how one service is called, alike for all callers; only a caller
// that the service's route names in a match has one of its own.
type Upstream struct {
	Service mesh.ServiceName
	Ports   []UpstreamPort // sorted by number
	Cause   mesh.Key
}

// UpstreamPort is one virtual address and port with what is behind it.
type UpstreamPort struct {
	Number   uint16
	Name     string
	Protocol mesh.Protocol
	Virtual  []netip.Addr // VIP4, VIP6 (those that are valid)
	Route    *Routes      // http, http2, grpc and unknown
	TCP      []Weighted   // tcp, tls and unknown
	// Clusters is everything that Route and TCP may name, sorted by name. A rule's
	// target elsewhere makes one cluster part of two upstreams; it is then the same pointer.
	Clusters []*Cluster
	Idle     time.Duration // mesh.None: none
	Direct   []Direct      // sorted by address; none unless the service is dialed directly
}

// Weighted is a share of the calls.
type Weighted struct {
	Cluster string
	Weight  uint32 // hundredths of a percent; a list adds up to 10000
}

// Cluster is one group of instances. Its name is "<service>:<port>" or
// "<service>.<subset>:<port>", and its EDS name is the same.
type Cluster struct {
	Name      string
	Service   mesh.ServiceName
	Subset    string
	Port      uint16
	Protocol  mesh.Protocol
	Identity  mesh.Identity // the exact SPIFFE ID the instances must show
	MTLS      mesh.MTLS     // strict: all endpoints by mTLS; permissive: those that are in; disabled: none
	Balance   mesh.Balance
	Limits    mesh.Limits
	Outlier   mesh.Outlier
	Budget    float64 // percent of the calls in flight that may be retries
	Connect   time.Duration
	Idle      time.Duration
	Endpoints *Endpoints
	Cause     mesh.Key
}

// Endpoints is what a cluster's EDS says.
type Endpoints struct {
	Cluster string
	Groups  []Group // sorted by locality
	Cause   mesh.Key
}

// Group is the endpoints of one locality.
type Group struct {
	Locality  mesh.Locality
	Endpoints []Endpoint // sorted by address
}

// Endpoint is one instance.
type Endpoint struct {
	Addr   netip.AddrPort
	Weight uint32
	Health mesh.Health
	In     bool // mTLS; false: plaintext
}

// Routes is the HTTP behaviour of one port. Its name is the cluster's without a subset.
type Routes struct {
	Name    string
	Service mesh.ServiceName
	Rules   []RouteRule // first match wins; the last one matches everything
	Cause   mesh.Key
}

// RouteRule is one rule, resolved: every default filled in.
type RouteRule struct {
	Name            string
	Matches         []mesh.Match  // any of them; none: everything. From is resolved away
	Timeout         time.Duration // mesh.None: none
	Idle            time.Duration // mesh.None: none
	Retry           Retry
	To              []Weighted // exactly one of To, Redirect, Respond
	Redirect        *mesh.Redirect
	Respond         *mesh.Respond
	Rewrite         *mesh.Rewrite
	RequestHeaders  *mesh.HeaderOps
	ResponseHeaders *mesh.HeaderOps
	Pos             mesh.Pos
}

// Retry is mesh.Retry with every default filled in. What may have reached the
// application is tried again for GET, HEAD, OPTIONS, PUT and DELETE.
type Retry struct {
	Times      uint32
	On         []string
	Safe       bool          // for GET, HEAD and OPTIONS alone
	AnyMethod  bool          // for every method, whatever Safe says
	PerTry     time.Duration // mesh.None: none
	Backoff    time.Duration
	BackoffMax time.Duration
}

// Problem is a user's mistake, found while compiling: reported, never a Go error.
type Problem struct {
	Where mesh.Key
	Pos   mesh.Pos
	What  string
}
