package api

import "time"

// AgentStatus is one node on one screen: GET /v1/status of an agent.
type AgentStatus struct {
	Node        string          `json:"node"`
	Version     string          `json:"version"`
	TrustDomain string          `json:"trust_domain"`
	Joined      bool            `json:"joined"`
	Expires     time.Time       `json:"certificate_expires,omitzero"` // the node's
	Servers     AgentServers    `json:"servers"`
	Steps       []AgentStep     `json:"steps"`
	Workloads   []AgentWorkload `json:"workloads"`
	Names       int             `json:"names"`
	Disk        string          `json:"disk,omitempty"` // why nothing is kept on disk
	Evicted     bool            `json:"evicted,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"`
}

// AgentServers is the control plane as a node sees it.
type AgentServers struct {
	Addresses  []string  `json:"addresses"`
	Connected  bool      `json:"connected"`
	Error      string    `json:"error,omitempty"`
	Heard      time.Time `json:"heard,omitzero"`
	AgeSeconds float64   `json:"age_seconds"` // since a server was last heard; 0 when connected
}

// AgentStep is one step of bringing a node up.
type AgentStep struct {
	Name  string `json:"name"`
	State string `json:"state"` // waiting up failed stopped
	Error string `json:"error,omitempty"`
}

// AgentWorkload is one service on a node.
type AgentWorkload struct {
	Service      string     `json:"service"`
	Workload     string     `json:"workload,omitempty"`
	Ports        []uint16   `json:"ports"`
	Addresses    []string   `json:"addresses,omitempty"`
	Source       string     `json:"source,omitempty"` // registry that places it here
	FoundBy      string     `json:"found_by"`
	User         string     `json:"user,omitempty"`
	UID          uint32     `json:"uid,omitempty"`
	PID          int        `json:"pid,omitempty"`
	Netns        string     `json:"netns,omitempty"`
	Slice        string     `json:"slice,omitempty"`
	InboundPort  uint16     `json:"inbound_port,omitempty"`
	OutboundPort uint16     `json:"outbound_port,omitempty"`
	State        string     `json:"state"` // in joining held left
	Reason       string     `json:"reason,omitempty"`
	Accepted     bool       `json:"accepted"` // a server has it durably in the mesh
	Expires      time.Time  `json:"certificate_expires,omitzero"`
	Proxy        AgentProxy `json:"proxy"`
}

// AgentProxy is how a workload's Envoy is served.
type AgentProxy struct {
	ID         string      `json:"id"`
	Dir        string      `json:"dir"`
	Envoys     int         `json:"envoys"` // connected
	Envoy      string      `json:"envoy,omitempty"`
	Ready      bool        `json:"ready"`
	Why        string      `json:"why,omitempty"` // not ready
	Connected  bool        `json:"connected"`     // to a server
	Source     string      `json:"source"`        // live disk none
	AgeSeconds float64     `json:"age_seconds"`   // of what is served; 0 when live
	Error      string      `json:"error,omitempty"`
	Disk       string      `json:"disk,omitempty"`
	Types      []ProxyType `json:"types"`
}

// AgentJoin asks POST /v1/join to join.
type AgentJoin struct {
	Token   string   `json:"token"`             // secret
	Servers []string `json:"servers,omitempty"` // besides those of the token and the settings
}

// AgentJoined answers it.
type AgentJoined struct {
	Node        string          `json:"node"`
	TrustDomain string          `json:"trust_domain"`
	Already     bool            `json:"already"`
	Workloads   []AgentWorkload `json:"workloads"`
}

// AgentLeave asks POST /v1/leave: one service, or all.
type AgentLeave struct {
	Service  string  `json:"service,omitempty"` // "": all, and the node's identity
	Workload string  `json:"workload,omitempty"`
	Timeout  float64 `json:"timeout_seconds,omitempty"` // for the servers' answer; 0: 30
	Force    bool    `json:"force,omitempty"`           // without a server's answer
}

// AgentLeft answers it.
type AgentLeft struct {
	Left           []string `json:"left"`
	Acknowledged   bool     `json:"acknowledged"`
	CaptureRemoved bool     `json:"capture_removed"`
	Identity       bool     `json:"identity_removed"`
	Nothing        string   `json:"nothing,omitempty"` // why there was nothing to leave; "": there was
}

// Bootstrap is what `kerege envoy` needs: GET /v1/proxies/SERVICE/bootstrap.
type Bootstrap struct {
	ID                  string  `json:"id"`
	Dir                 string  `json:"dir"`
	Bootstrap           []byte  `json:"bootstrap"` // Envoy's, JSON
	Path                string  `json:"path"`      // of Envoy's program; "envoy" is looked up
	Concurrency         int     `json:"concurrency"`
	DrainDelaySeconds   float64 `json:"drain_delay_seconds"`
	DrainTimeoutSeconds float64 `json:"drain_timeout_seconds"`
}

// AgentClaim is what the sidecar of an allocation says of itself:
// POST /v1/proxies/SERVICE/claim. Its network namespace is read from the kernel.
type AgentClaim struct {
	Workload string `json:"workload"`           // the allocation's id
	Evidence string `json:"evidence,omitempty"` // secret; its workload identity JWT
}

// AgentReady answers GET /v1/ready?service=S[&workload=W].
type AgentReady struct {
	Ready bool   `json:"ready"`
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
}

// AgentName is a mesh name that resolves on a node: GET /v1/names.
type AgentName struct {
	Name string   `json:"name"`
	V4   string   `json:"v4,omitempty"`
	V6   string   `json:"v6,omitempty"`
	Also []string `json:"also,omitempty"`
}

// CaptureRemove asks POST /v1/capture/remove.
type CaptureRemove struct {
	Timeout float64 `json:"timeout_seconds,omitempty"` // for the servers' answer; 0: 30
	Force   bool    `json:"force,omitempty"`           // without a server's answer
}

// CaptureApply asks POST /v1/capture/apply.
type CaptureApply struct {
	UndoSeconds float64 `json:"undo_seconds"`             // undone after that unless confirmed; 0: 60
	Manual      bool    `json:"manual,omitempty"`         // a passed probe does not confirm
	Accept      int     `json:"accept_refusals"`          // callers that may be refused
	SSH         string  `json:"ssh_connection,omitempty"` // SSH_CONNECTION of who asks
}
