package mesh

import "time"

// Route is one route block: what is asked of a service, by whomever.
type Route struct {
	Service ServiceName
	Rules   []Rule // first match as written
	Pos     Pos
}

// Rule is one rule of a route.
type Rule struct {
	Name            string
	Port            string  // only calls to this named port; "" any
	Matches         []Match // any of them; none: everything
	Timeout         *time.Duration
	IdleTimeout     *time.Duration
	Retry           *Retry
	To              []Target // none: all of the service
	RequestHeaders  *HeaderOps
	ResponseHeaders *HeaderOps
	Rewrite         *Rewrite
	Redirect        *Redirect
	Respond         *Respond
	Pos             Pos
}

// Match is all of it: every field set must hold.
type Match struct {
	Path        string // exact
	PathPrefix  string // whole segments
	PathRegex   string // RE2, whole path
	Methods     []string
	From        []string // service names, exact
	Headers     []ValueMatch
	Query       []ValueMatch
	GRPCService string
	Pos         Pos
}

// ValueMatch is one condition on a header or a query parameter.
type ValueMatch struct {
	Name       string
	Exact      *string
	Prefix     *string
	Suffix     *string
	Contains   *string
	Regex      *string
	In         []string
	Present    *bool
	Invert     bool
	IgnoreCase bool
	Pos        Pos
}

// Target is one `to "service.subset"`.
type Target struct {
	Service ServiceName
	Subset  string
	Weight  *uint32 // hundredths of a percent, 0..10000; nil: the rest. Config resolves nil and checks the sum
	IfEmpty string  // rest | fail; "" is rest
	Pos     Pos
}

// HeaderOps changes headers.
type HeaderOps struct {
	Set    map[string]string
	Add    map[string]string
	Remove []string
	Pos    Pos
}

// Rewrite changes what the service is asked for. At most one path field is set.
type Rewrite struct {
	Path       string
	PathPrefix string
	PathRegex  string // substitution for the match's path_regex
	Host       string
	Pos        Pos
}

// Redirect answers with a redirect.
type Redirect struct {
	Scheme     string
	Host       string
	Port       uint32
	Path       string
	PathPrefix string
	Code       int // 301 302 303 307 308
	Pos        Pos
}

// Respond answers by itself.
type Respond struct {
	Status int
	Body   string
	Pos    Pos
}
