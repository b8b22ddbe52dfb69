// Package api is the words between agent, server and operator: the types of the
// HTTP API (JSON, snake_case), and below it the generated kerege.v1 of the wire.
//
// Promises: no type here holds a private key; times are RFC 3339 in UTC;
// durations are seconds as a number.
package api

import "time"

// Error is what every failing request answers with (RFC 9457's shape).
type Error struct {
	Title  string `json:"title"`            // one sentence: what failed
	Detail string `json:"detail,omitempty"` // what to do next
	Status int    `json:"status"`
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Title
	}
	return e.Title + "\n" + e.Detail
}

// Status is the whole mesh on one screen: GET /v1/status.
type Status struct {
	Server             string      `json:"server"`
	Version            string      `json:"version"`
	TrustDomain        string      `json:"trust_domain"`
	TrustDomainDefault bool        `json:"trust_domain_default,omitempty"` // no mesh file says it
	MTLS               string      `json:"mtls"`
	DefaultIntention   string      `json:"default_intention"`
	Outbound           string      `json:"outbound"`
	Generation         Generation  `json:"generation"`
	Differs            []string    `json:"differs"` // mesh files that are not what is applied
	Sources            []Source    `json:"sources"`
	Nodes              []Node      `json:"nodes"`
	Services           int         `json:"services"`
	Proxies            ProxyCounts `json:"proxies"`
	Held               []Held      `json:"held"`
	Guards             []Guard     `json:"guards"`
	Conflicts          []Conflict  `json:"conflicts"`
	CA                 CA          `json:"ca"`
	Ready              bool        `json:"ready"`
	WaitingFor         []string    `json:"waiting_for,omitempty"` // what keeps the gate shut
	Frozen             *Frozen     `json:"frozen,omitempty"`
	// Warnings are those of the generation in force that still hold.
	Warnings []Diagnostic `json:"warnings"`
}

// Generation is one applied state of the mesh files.
type Generation struct {
	Number  int       `json:"number"`
	Hash    string    `json:"hash"`
	Applied time.Time `json:"applied"`
	Files   int       `json:"files"`
	Of      int       `json:"of,omitempty"` // rolled back to this one; the files on disk wait for an apply
}

// Source is one registry or directory, and how well it can be seen.
type Source struct {
	Name       string  `json:"name"`
	State      string  `json:"state"` // ok stale denied filtered error
	AgeSeconds float64 `json:"age_seconds"`
	Error      string  `json:"error,omitempty"`
	Services   int     `json:"services"`
	Watches    int     `json:"watches"`
	RequestsPS float64 `json:"requests_per_second"`
}

// Node is a host that has joined.
type Node struct {
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Version   string    `json:"version"`
	Addresses []string  `json:"addresses"`
	Services  []string  `json:"services"` // in the mesh there
	SkewMS    int64     `json:"clock_skew_ms"`
	State     string    `json:"state"`            // in joined away left evicted banned
	Reason    string    `json:"reason,omitempty"` // of a ban
	// Outside are members that were in and that the node took out, and why: their
	// capture is gone.
	Outside map[string]string `json:"outside,omitempty"`
}

// ProxyCounts sums up the proxies.
type ProxyCounts struct {
	Synced int `json:"synced"`
	Stale  int `json:"stale"`
	Nacked int `json:"nacked"`
}

// Held is an instance that is registered, but kept from callers.
type Held struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
	Address  string `json:"address"`
	Node     string `json:"node"`
	Reason   string `json:"reason"`
}

// Guard is a removal that the shrink guard holds back.
type Guard struct {
	Service string    `json:"service"`
	Source  string    `json:"source"`
	Before  int       `json:"before"`
	After   int       `json:"after"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

// Conflict is something that two sources disagree on, or an entry refused.
type Conflict struct {
	Where []string `json:"where"`
	What  string   `json:"what"`
}

// CA says how long the certificates last.
type CA struct {
	RootExpires         time.Time `json:"root_expires"`
	IntermediateExpires time.Time `json:"intermediate_expires"`
	BundleHash          string    `json:"bundle_hash"`
	LeafTTLSeconds      float64   `json:"leaf_ttl_seconds"`
}

// Service is one line of GET /v1/services.
type Service struct {
	Name      string     `json:"name"`
	Protocol  string     `json:"protocol"`
	MTLS      string     `json:"mtls"`
	Default   string     `json:"default_intention"`
	Ports     []Port     `json:"ports"`
	VIP4      string     `json:"vip4"`
	VIP6      string     `json:"vip6"`
	Instances []Instance `json:"instances"`
	Callers   []string   `json:"callers"` // those an intention lets in
	Where     string     `json:"where,omitempty"`
	Warnings  []string   `json:"warnings,omitempty"` // what its registries disagree on, and the way out
}

// Port is one port of a service.
type Port struct {
	Name     string `json:"name,omitempty"`
	Number   uint16 `json:"number"`
	Protocol string `json:"protocol"`
	MTLS     string `json:"mtls"`
}

// Instance is one endpoint, its origin, and whether callers get it.
type Instance struct {
	ID      string   `json:"id"`
	Source  string   `json:"source"`
	Node    string   `json:"node"`
	Address string   `json:"address"`
	Health  string   `json:"health"`
	Weight  uint32   `json:"weight"`
	Subsets []string `json:"subsets,omitempty"`
	In      bool     `json:"in"`
	Held    string   `json:"held,omitempty"` // why callers do not get it
	Why     string   `json:"why,omitempty"`  // why it is not in, where callers get it in plaintext
	Where   string   `json:"where,omitempty"`
}

// Proxy is one line of GET /v1/proxies.
type Proxy struct {
	ID        string      `json:"id"`
	Node      string      `json:"node"`
	Connected bool        `json:"connected"`
	Since     time.Time   `json:"since"`
	State     string      `json:"state"` // synced stale nacked
	Types     []ProxyType `json:"types"`
	Messages  uint64      `json:"messages"`
	Bytes     uint64      `json:"bytes"`
	Problems  []string    `json:"problems,omitempty"`
}

// ProxyType is how one type of resource stands on a proxy.
type ProxyType struct {
	Type       string  `json:"type"`
	State      string  `json:"state"`
	Resources  int     `json:"resources"`
	LagSeconds float64 `json:"lag_seconds"`
	Nack       string  `json:"nack,omitempty"` // Envoy's words
	Cause      string  `json:"cause,omitempty"`
}

// Intention is one rule of GET /v1/intentions.
type Intention struct {
	Destination string   `json:"destination"`
	Action      string   `json:"action"`
	Name        string   `json:"name,omitempty"`
	From        []string `json:"from"`
	Except      []string `json:"except,omitempty"`
	What        string   `json:"what"` // methods, paths and ports in words; "everything"
	Where       string   `json:"where"`
}

// ExplainRequest is the call that POST /v1/explain speaks about.
type ExplainRequest struct {
	From    string            `json:"from"`
	To      string            `json:"to"`
	Port    string            `json:"port,omitempty"` // name or number; "" the first
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers,omitempty"`
	Applied bool              `json:"applied,omitempty"` // while frozen: by what is applied, instead of by what proxies were told
}

// Explain is what would become of one call, step by step.
type Explain struct {
	Steps   []ExplainStep `json:"steps"`
	Allowed bool          `json:"allowed"`
	Verdict string        `json:"verdict"`       // allowed, refused, or why it reaches no instance although nobody refuses it
	Fix     string        `json:"fix,omitempty"` // HCL that would let it through
	Frozen  *Frozen       `json:"frozen,omitempty"`
	// Thawed is the verdict after a thaw, where what waits makes another of this
	// call; "": it stays.
	Thawed string `json:"thawed,omitempty"`
}

// ExplainStep is one hop of a call.
type ExplainStep struct {
	Step  string   `json:"step"` // name, listener, route, split, endpoints, identity, decision
	What  string   `json:"what"`
	Where string   `json:"where,omitempty"` // file:line
	List  []string `json:"list,omitempty"`
}

// Plan is what applying the files would change: POST /v1/plan.
type Plan struct {
	Generation  int           `json:"generation"` // what is applied now
	Changes     bool          `json:"changes"`
	Calls       []CallChange  `json:"calls"`
	Proxies     []ProxyChange `json:"proxies"`
	Warnings    []Diagnostic  `json:"warnings"`
	Diagnostics []Diagnostic  `json:"diagnostics"` // errors: nothing can be applied
	Files       []string      `json:"files"`       // that differ
	Blocks      []BlockChange `json:"blocks"`      // of HCL that differ
	Cut         []Cut         `json:"cut"`         // whose open connections are cut
	Apply       bool          `json:"apply"`       // there is something to apply; false while frozen: a thaw brings it all
	Frozen      *Frozen       `json:"frozen,omitempty"`
}

// BlockChange is a block of HCL that is not what it was.
type BlockChange struct {
	Block string      `json:"block"` // route "api"
	How   string      `json:"how"`   // added removed changed
	Where string      `json:"where,omitempty"`
	Edits []BlockEdit `json:"edits"` // of one that is changed
}

// BlockEdit is one thing in a block that is not what it was, in words.
type BlockEdit struct {
	What  string `json:"what"`
	Where string `json:"where,omitempty"`
}

// Cut is a caller whose open connections to a destination's port are cut, since it
// has lost the right to them.
type Cut struct {
	From string `json:"from"`
	To   string `json:"to"` // with its port
}

// PlanRequest asks POST /v1/plan what would change; an empty body asks it of the
// mesh files as they are on disk.
type PlanRequest struct {
	Generation int `json:"generation,omitempty"` // of a generation that is kept
}

// RollbackRequest asks POST /v1/rollback for a generation that is kept.
type RollbackRequest struct {
	Generation int `json:"generation,omitempty"` // 0: the one before
}

// Generations is the answer of GET /v1/generations.
type Generations struct {
	Current int    `json:"current"`
	Before  int    `json:"before"` // what a rollback without a number means; 0: none is kept
	Kept    []Past `json:"kept"`   // the newest first
}

// Past is a generation that can be gone back to.
type Past struct {
	Number  int       `json:"number"`
	Hash    string    `json:"hash"`
	Applied time.Time `json:"applied"`
	Files   int       `json:"files"`
	Of      int       `json:"of,omitempty"` // it is this one again, by a rollback
}

// FreezeRequest asks POST /v1/freeze to tell no proxy of a change.
type FreezeRequest struct {
	Reason string `json:"reason,omitempty"` // for who looks at the status
}

// Frozen is that no proxy is told of a change, by an operator's word.
type Frozen struct {
	Since      time.Time `json:"since"`
	Reason     string    `json:"reason,omitempty"`
	Generation int       `json:"generation,omitempty"` // of the mesh files, that proxies have
	Waiting    int       `json:"waiting,omitempty"`    // services, routes and intentions that are other than proxies were told
	Unknown    bool      `json:"unknown,omitempty"`    // the server was started again since, and does not know what proxies have
}

// Freeze answers GET /v1/freeze.
type Freeze struct {
	Frozen *Frozen `json:"frozen,omitempty"`
}

// CallChange is a caller that gains or loses a destination.
type CallChange struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Now   string `json:"now"`
	Then  string `json:"then"`
	Open  string `json:"open,omitempty"` // cut, finish: what is open and may not be opened any more; "" nothing is
	Where string `json:"where,omitempty"`
}

// ProxyChange is what a proxy's Envoy would be sent.
type ProxyChange struct {
	Proxy   string   `json:"proxy"`
	Changed []string `json:"changed"` // "<type> <name>"
	Removed []string `json:"removed"`
	Drains  []string `json:"drains"` // listeners whose connections are cut at the end of the drain
}

// Diagnostic is a finding in the files.
type Diagnostic struct {
	Severity string `json:"severity"` // error warning
	Code     string `json:"code"`
	Where    string `json:"where"`
	Summary  string `json:"summary"`
	Detail   string `json:"detail,omitempty"`
	Text     string `json:"text"` // as the terminal shows it, with the line and a caret
}

// Applied answers POST /v1/apply.
type Applied struct {
	Generation   int          `json:"generation"`
	Previous     int          `json:"previous"`
	Proxies      int          `json:"proxies"`
	Acknowledged int          `json:"acknowledged"`
	Refused      int          `json:"refused"` // proxies that have an update that they did not take
	Seconds      float64      `json:"seconds"`
	Of           int          `json:"of,omitempty"`     // of a rollback: it is this one again
	Frozen       bool         `json:"frozen,omitempty"` // no proxy is sent it before kerege thaw
	Cut          []Cut        `json:"cut,omitempty"`    // whose open connections are cut
	Warnings     []Diagnostic `json:"warnings,omitempty"`
	Diagnostics  []Diagnostic `json:"diagnostics,omitempty"` // errors: nothing was applied
}

// BanRequest asks POST /v1/nodes/{node}/ban; its body may be empty.
type BanRequest struct {
	Reason string `json:"reason"`
}

// NodeAway answers POST /v1/nodes/{node}/evict and /ban.
type NodeAway struct {
	Node           string   `json:"node"`
	Services       []string `json:"services"` // that were in the mesh there
	Streams        int      `json:"streams"`  // of its proxies, ended now
	LeafTTLSeconds float64  `json:"leaf_ttl_seconds"`
	Late           bool     `json:"late,omitempty"` // callers hear of it when it thaws: it is frozen since before the server's start
}

// TokenRequest asks POST /v1/tokens for a join token.
type TokenRequest struct {
	Node       string  `json:"node"` // "" any node
	TTLSeconds float64 `json:"ttl_seconds"`
}

// Token is a join token: a secret, shown once.
type Token struct {
	Token   string    `json:"token"`
	Node    string    `json:"node"`
	Expires time.Time `json:"expires"`
}
