package policy

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// Rules are the intentions that speak of one port of one service, in a form that
// its nodes can be told: they judge by them what is open there.
type Rules struct {
	To         mesh.ServiceName
	Default    mesh.Action
	Intentions []*mesh.Intention // without positions and ports
	Strict     bool              // the port takes nobody without a certificate
	Away       []string          // marks that are believed no more, sorted
}

// rulesVersion is raised when a reader that does not know of a change would judge
// wrongly.
const rulesVersion = 1

// The form on the wire. Positions are left out: a line added above a block is no
// change of it.
type rulesText struct {
	Version    int              `json:"v"`
	To         mesh.ServiceName `json:"to"`
	Default    mesh.Action      `json:"default,omitempty"`
	Intentions []intentionText  `json:"intentions,omitempty"`
	Strict     bool             `json:"strict,omitempty"`
	Away       []string         `json:"away,omitempty"`
}

type intentionText struct {
	Label string           `json:"label"`
	Open  string           `json:"open,omitempty"`
	Rules []permissionText `json:"rules,omitempty"`
}

type permissionText struct {
	Action     mesh.Action `json:"action"`
	Name       string      `json:"name,omitempty"`
	From       []string    `json:"from"`
	Except     []string    `json:"except,omitempty"`
	Methods    []string    `json:"methods,omitempty"`
	Path       string      `json:"path,omitempty"`
	PathPrefix string      `json:"path_prefix,omitempty"`
	PathRegex  string      `json:"path_regex,omitempty"`
}

// RulesOf takes what holds on a port, named as in Request.Port.
func RulesOf(intentions []*mesh.Intention, def mesh.Action, to mesh.ServiceName, port string) Rules {
	out := Rules{To: to, Default: def}
	for _, in := range intentions {
		if !mesh.MatchName(in.Label, to) {
			continue
		}
		kept := &mesh.Intention{Label: in.Label, Open: in.Open}
		for _, r := range in.Rules {
			if onPort(&r, port) {
				r.Ports, r.Pos = nil, mesh.Pos{}
				kept.Rules = append(kept.Rules, r)
			}
		}
		out.Intentions = append(out.Intentions, kept)
	}
	return out
}

// Text writes rules: equal rules, equal bytes.
func (r Rules) Text() []byte {
	out := rulesText{Version: rulesVersion, To: r.To, Default: r.Default, Strict: r.Strict, Away: r.Away}
	for _, in := range r.Intentions {
		t := intentionText{Label: in.Label, Open: in.Open}
		for _, p := range in.Rules {
			t.Rules = append(t.Rules, permissionText{p.Action, p.Name, p.From, p.Except, p.Methods, p.Path, p.PathPrefix, p.PathRegex})
		}
		out.Intentions = append(out.Intentions, t)
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic(err) // strings and lists of strings
	}
	return text
}

// ReadRules reads what Text wrote. Rules of another version are an error: what is
// not understood must not be judged by.
func ReadRules(text []byte) (Rules, error) {
	var in rulesText
	if err := json.Unmarshal(text, &in); err != nil {
		return Rules{}, fmt.Errorf("reading rules: %w", err)
	}
	if in.Version != rulesVersion {
		return Rules{}, fmt.Errorf("reading rules: they are of version %d, and this kerege reads %d", in.Version, rulesVersion)
	}
	out := Rules{To: in.To, Default: in.Default, Strict: in.Strict, Away: in.Away}
	for _, t := range in.Intentions {
		to := &mesh.Intention{Label: t.Label, Open: t.Open}
		for _, p := range t.Rules {
			to.Rules = append(to.Rules, mesh.Permission{Action: p.Action, Name: p.Name, From: p.From, Except: p.Except,
				Methods: p.Methods, Path: p.Path, PathPrefix: p.PathPrefix, PathRegex: p.PathRegex})
		}
		out.Intentions = append(out.Intentions, to)
	}
	return out, nil
}

// Finishes says whether what is open may go on although req is denied by now:
// all intentions that deny it say open = "finish". Where no block denies it, the
// one with the most exact label decides.
func Finishes(intentions []*mesh.Intention, req Request) bool {
	denied := false
	var nearest *mesh.Intention
	for _, in := range intentions {
		if !mesh.MatchName(in.Label, req.To) {
			continue
		}
		if nearest == nil || closer(in.Label, nearest.Label) {
			nearest = in
		}
		for i := range in.Rules {
			r := &in.Rules[i]
			if r.Action == mesh.ActionAllow || !Names(r, req.From.Name) || !onPort(r, req.Port) || !matches(r, req) {
				continue
			}
			if denied = true; in.Open != openFinish {
				return false
			}
		}
	}
	return denied || nearest != nil && nearest.Open == openFinish
}

const openFinish = "finish"

// closer says whether label a is more exact than b; both match the same service.
func closer(a, b string) bool {
	if exact := !mesh.IsPattern(a); exact == mesh.IsPattern(b) {
		return exact
	}
	return len(a) > len(b)
}

// SentAway says whether a certificate with this mark is believed no more, whatever
// the intentions say. "" is none.
func (r Rules) SentAway(mark string) bool {
	_, found := slices.BinarySearch(r.Away, mark)
	return mark != "" && found
}

// MayStay says whether what req opened may stay open, and if not, why.
func (r Rules) MayStay(req Request) (bool, Decision) {
	req.To, req.Port = r.To, ""
	d := Decide(r.Intentions, r.Default, req)
	if r.Strict && req.From == (mesh.Identity{}) {
		d = Decision{Reason: "denied: the port takes nobody without a certificate any more (mtls = \"strict\")"}
	}
	return d.Allowed || Finishes(r.Intentions, req), d
}
