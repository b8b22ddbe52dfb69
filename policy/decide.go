package policy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// Request is one call, or one connection where HTTP is false.
type Request struct {
	From   mesh.Identity // the zero Identity is a caller without a certificate: only "*" names it
	To     mesh.ServiceName
	Port   string // the name of the destination's port, "" if it has none
	HTTP   bool
	Method string // as sent; methods are compared exactly
	Path   string // with or without query
}

// Decision is the answer and where it comes from.
type Decision struct {
	Allowed bool
	Rule    string   // the deciding block's name, "" if it has none or the default decided
	Pos     mesh.Pos // of the deciding block; zero when the default decided
	Reason  string   // one sentence's end: "denied by ..."
}

// Decide answers one request. Intentions that do not speak of the destination
// are ignored; def is what a request meets that no block speaks of.
func Decide(intentions []*mesh.Intention, def mesh.Action, req Request) Decision {
	if req.From != (mesh.Identity{}) && (req.From.Kind != mesh.KindSvcIdentity || req.From.Namespace != "") {
		// Intentions name services without a namespace; the same name in one is somebody else.
		return Decision{Reason: "denied: " + req.From.String() + " is no service that an intention can name"}
	}
	var allowed *mesh.Permission
	var by *mesh.Intention
	for _, in := range intentions {
		if !mesh.MatchName(in.Label, req.To) {
			continue
		}
		for i := range in.Rules {
			r := &in.Rules[i]
			if !Names(r, req.From.Name) || !onPort(r, req.Port) || !matches(r, req) {
				continue
			}
			if r.Action != mesh.ActionAllow {
				return Decision{Rule: r.Name, Pos: r.Pos, Reason: "denied by " + title(r, in)}
			}
			if allowed == nil {
				allowed, by = r, in
			}
		}
	}
	switch {
	case allowed != nil:
		return Decision{Allowed: true, Rule: allowed.Name, Pos: allowed.Pos, Reason: "allowed by " + title(allowed, by)}
	case def == mesh.ActionAllow:
		return Decision{Allowed: true, Reason: "allowed by default_intention = \"allow\": no intention speaks of it"}
	}
	return Decision{Reason: "denied by default: no intention allows it"}
}

// Names says whether a block speaks of a caller: it is in from and not in
// except. The caller without a name is spoken of by "*" alone.
func Names(r *mesh.Permission, caller string) bool {
	names := func(token string) bool {
		if caller == "" {
			return token == "*"
		}
		return mesh.MatchName(token, mesh.ServiceName(caller))
	}
	return slices.ContainsFunc(r.From, names) && !slices.ContainsFunc(r.Except, names)
}

// HasHTTP says whether a block has conditions that only HTTP can meet.
func HasHTTP(r *mesh.Permission) bool {
	return len(r.Methods) > 0 || r.Path != "" || r.PathPrefix != "" || r.PathRegex != ""
}

func title(r *mesh.Permission, in *mesh.Intention) string {
	kind, which := "deny", "a deny block"
	if r.Action == mesh.ActionAllow {
		kind, which = "allow", "an allow block"
	}
	if r.Name != "" {
		which = "the " + kind + " block \"" + r.Name + "\""
	}
	return which + " of the intention \"" + in.Label + "\""
}

func onPort(r *mesh.Permission, port string) bool {
	return len(r.Ports) == 0 || slices.Contains(r.Ports, port)
}

// matches judges the conditions on the request itself.
func matches(r *mesh.Permission, req Request) bool {
	deny := r.Action != mesh.ActionAllow
	if !req.HTTP {
		return deny || !HasHTTP(r)
	}
	path := req.Path
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if len(r.Methods) > 0 && !slices.Contains(r.Methods, req.Method) ||
		r.Path != "" && r.Path != path ||
		r.PathPrefix != "" && !Under(path, r.PathPrefix) {
		return false
	}
	if r.PathRegex == "" {
		return true
	}
	re, err := regexp.Compile(`\A(?:` + r.PathRegex + `)\z`)
	if err != nil {
		return deny
	}
	return re.MatchString(path)
}

// Under says whether a path is a prefix's, or below it by whole segments.
func Under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimRight(prefix, "/"))
	return ok && (rest == "" || rest[0] == '/')
}
