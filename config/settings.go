package config

import (
	"encoding/json"
	"time"
)

// Secret is a text that must not be seen: every way of printing it gives
// "[redacted]". Reveal is the one way to use it.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString keeps %#v from showing the text.
func (s Secret) GoString() string { return s.String() }

// MarshalJSON never writes the text.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText never writes the text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// Server is what server.hcl says, defaults filled in.
type Server struct {
	Name       string    // this server's name, in its identity; default: the host's name
	DataDir    string    // state: CA, members, virtual addresses
	RunDir     string    // sockets
	MeshPaths  []string  // files and directories of mesh configuration
	Advertise  string    // address or name that agents and operators dial; "" is found by the server
	Addresses  Addresses // where the server listens
	TLS        TLSFiles  // of the HTTPS API; empty: a certificate of the mesh's own CA
	Log        Log
	Consul     *Consul // nil: no consul block, Consul is not read
	Nomad      *Nomad  // nil: no nomad block, Nomad is not read
	CA         CA
	FirstGrace time.Duration // longest wait for a source before the first answer to a proxy
}

// Addresses are where a server listens: host:port, ":port", or "none".
type Addresses struct {
	GRPC    string // join, sign, node and ADS
	HTTPS   string // API; metrics at /metrics
	Metrics string // plain HTTP /metrics and /healthz, "none" by default
}

// TLSFiles are PEM files, read again when they change.
type TLSFiles struct {
	CAFile, CertFile, KeyFile string
}

// Log is how a process logs.
type Log struct {
	Level string // trace | debug | info | warn | error
	JSON  bool
}

// CA says how long certificates live.
type CA struct {
	LeafTTL         time.Duration
	IntermediateTTL time.Duration
	RootTTL         time.Duration
}

// Consul says how to reach Consul. An empty field falls back on CONSUL_* in
// the environment, then on Consul's own default.
type Consul struct {
	Address       string // host:port, URL, or unix:///path
	Scheme        string // http | https
	Token         Secret
	TokenFile     string // read again when it changes
	Datacenter    string
	Datacenters   []string // read besides Datacenter
	Namespace     string
	Partition     string
	CAFile        string
	CAPath        string
	CertFile      string
	KeyFile       string
	TLSServerName string
	SkipVerify    bool
}

// Nomad says how to reach Nomad. An empty field falls back on NOMAD_* in the
// environment, then on Nomad's own default.
type Nomad struct {
	Address       string
	Region        string
	Namespace     string
	Token         Secret
	TokenFile     string
	CAFile        string
	CAPath        string
	CertFile      string
	KeyFile       string
	TLSServerName string
	SkipVerify    bool
}

// Agent is what agent.hcl says, defaults filled in.
type Agent struct {
	Node         string   // as the registries know this host; default: the host's name
	DataDir      string   // keys are not here; last accepted resources and certificates are
	RunDir       string   // sockets
	RetryJoin    []string // servers, host:port
	Join         Join
	CacheKeyFile string // key that seals the cache in DataDir; "" is a machine key in DataDir
	Metrics      string // plain HTTP address for /metrics and /healthz; "none" by default
	Log          Log
	Envoy        Envoy
	Workloads    []Workload
	Capture      Capture // for every workload, besides its own
	DNS          DNS
	Consul       *Consul // nil: the agent asks Consul for nothing
	Nomad        *Nomad
}

// Join is how a node proves, once, that it may join.
type Join struct {
	TokenFile string
}

// Envoy is how this node's proxies run.
type Envoy struct {
	Path         string // the binary; "envoy" is looked up in PATH
	User         string // whom it runs as; "": kerege-envoy, or the first of capture's exclude_users
	Concurrency  int    // worker threads; 0 is one a CPU
	DrainDelay   time.Duration
	DrainTimeout time.Duration
}

// Workload is one captured application of this node. At most one of User,
// Unit, Slice and Netns is set.
type Workload struct {
	Name    string // the service
	User    string
	Unit    string // a systemd unit
	Slice   string // a systemd slice
	Netns   string // a network namespace's name
	Ports   []uint16
	Capture Capture
	Pos     Position
}

// Capture narrows what iptables take. Exclusions add up, nothing replaces them.
type Capture struct {
	NeverPorts       []uint16 // never captured, in either direction
	ExcludeInbound   []uint16 // ports
	ExcludeOutbound  []uint16 // ports
	ExcludeAddresses []string // destinations, CIDR
	IncludeAddresses []string // destinations, CIDR; none: all
	ExcludeUsers     []string
	OnEnvoyDown      string // closed | bypass; "" is closed, or the agent's where a workload leaves it out
}

// DNS is the agent's resolver.
type DNS struct {
	Enabled   bool
	Address   string   // host:port
	Upstreams []string // host:port; none: those of /etc/resolv.conf
	Domain    string   // "mesh"
	Scope     string   // workloads | host
}
