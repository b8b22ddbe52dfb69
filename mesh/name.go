package mesh

// ServiceName is the name a service has in the mesh: lower-case letters,
// digits, '-', '_' and '.'-free, at most 63 bytes. Config and registries check
// it with CheckName before it gets here.
type ServiceName string

// Pos is a place in a user's file. The zero Pos is "no file said so".
type Pos struct {
	File   string
	Line   int // 1-based
	Column int // 1-based
}

// ProxyID names one Envoy: the service it stands before, the node it runs on,
// and the workload on that node where a node has several of one service (a
// Nomad allocation id). Workload is empty for a service on a plain host.
type ProxyID struct {
	Service  ServiceName
	Node     string
	Workload string
}

// Protocol is what an application speaks on a port.
type Protocol string

const (
	ProtocolUnknown Protocol = "" // not said: detected per connection
	ProtocolTCP     Protocol = "tcp"
	ProtocolTLS     Protocol = "tls"
	ProtocolHTTP    Protocol = "http"
	ProtocolHTTP2   Protocol = "http2"
	ProtocolGRPC    Protocol = "grpc"
)

// MTLS says what a port accepts.
type MTLS string

const (
	MTLSUnset      MTLS = ""
	MTLSStrict     MTLS = "strict"     // mTLS only
	MTLSPermissive MTLS = "permissive" // mTLS, and plaintext from outside the mesh
	MTLSDisabled   MTLS = "disabled"   // plaintext only
)

// Action is what a policy does with a call.
type Action string

const (
	ActionUnset Action = ""
	ActionAllow Action = "allow"
	ActionDeny  Action = "deny"
)

// Outbound says what a workload may reach beyond the mesh.
type Outbound string

const (
	OutboundUnset      Outbound = ""
	OutboundRegistered Outbound = "registered" // only what the mesh knows
	OutboundAny        Outbound = "any"        // the rest is passed through untouched
)
