package plan

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// Call is one call to explain.
type Call struct {
	From, To mesh.ServiceName
	Port     string            // a port's name or number; "" is the service's first
	Method   string            // "" with Path "": a connection without HTTP, where the port does not settle it
	Path     string            // with its query, as the caller sends it
	Headers  map[string]string // any case
}

func (c Call) split() (path string, query url.Values) {
	path, raw, _ := strings.Cut(c.Path, "?")
	path, _, _ = strings.Cut(path, "#")
	query, _ = url.ParseQuery(raw) // what cannot be read is not there
	return path, query
}

// match finds the first of the matches that a call meets.
// Where there are none, everything meets.
func match(list []mesh.Match, c Call) (*mesh.Match, bool) {
	if len(list) == 0 {
		return &mesh.Match{}, true
	}
	path, query := c.split()
	for i := range list {
		m := &list[i]
		if m.Path != "" && m.Path != path ||
			m.PathPrefix != "" && !policy.Under(path, m.PathPrefix) ||
			m.PathRegex != "" && !fullMatch(m.PathRegex, path) ||
			m.GRPCService != "" && !strings.HasPrefix(path, "/"+m.GRPCService+"/") ||
			len(m.Methods) > 0 && !slices.Contains(m.Methods, c.Method) {
			continue
		}
		if all(m.Headers, c.header) && all(m.Query, func(name string) (string, bool) { return query.Get(name), query.Has(name) }) {
			return m, true
		}
	}
	return nil, false
}

func (c Call) header(name string) (string, bool) {
	for k, v := range c.Headers {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}

func all(list []mesh.ValueMatch, get func(string) (string, bool)) bool {
	for i := range list {
		value, there := get(list[i].Name)
		if !holds(&list[i], value, there) {
			return false
		}
	}
	return true
}

// holds judges one condition. What is absent meets only present = false and what
// is inverted.
func holds(v *mesh.ValueMatch, value string, there bool) bool {
	if v.Present != nil {
		return (there == *v.Present) != v.Invert
	}
	return (there && meets(v, value)) != v.Invert
}

func meets(v *mesh.ValueMatch, value string) bool {
	fold := func(s string) string {
		if v.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	value = fold(value)
	flag := ""
	if v.IgnoreCase {
		flag = "(?i)"
	}
	return (v.Exact == nil || value == fold(*v.Exact)) &&
		(v.Prefix == nil || strings.HasPrefix(value, fold(*v.Prefix))) &&
		(v.Suffix == nil || strings.HasSuffix(value, fold(*v.Suffix))) &&
		(v.Contains == nil || strings.Contains(value, fold(*v.Contains))) &&
		(v.Regex == nil || fullMatch(flag+"(?:"+*v.Regex+")", value)) &&
		(len(v.In) == 0 || slices.ContainsFunc(v.In, func(s string) bool { return fold(s) == value }))
}

func fullMatch(expr, s string) bool {
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	return err == nil && re.MatchString(s)
}

// rewritten is the path that the destination is asked for, and judges.
func rewritten(r *mesh.Rewrite, m *mesh.Match, c Call) string {
	path, _ := c.split()
	switch {
	case r == nil:
	case r.Path != "":
		return r.Path
	case r.PathPrefix != "":
		rest := strings.TrimPrefix(path, strings.TrimRight(m.PathPrefix, "/"))
		return "/" + strings.Trim(strings.Trim(r.PathPrefix, "/")+"/"+strings.TrimLeft(rest, "/"), "/") + slash(rest)
	case r.PathRegex != "" && m.PathRegex != "":
		re, err := regexp.Compile(m.PathRegex)
		if err == nil {
			return re.ReplaceAllString(path, goTemplate(r.PathRegex))
		}
	}
	return path
}

// slash keeps a trailing slash that Trim took with it.
func slash(rest string) string {
	if len(strings.Trim(rest, "/")) > 0 && strings.HasSuffix(rest, "/") {
		return "/"
	}
	return ""
}

var backReference = regexp.MustCompile(`\\([0-9])`)

// goTemplate turns RE2's \1 into Go's ${1}.
func goTemplate(s string) string {
	return backReference.ReplaceAllString(strings.ReplaceAll(s, "$", "$$"), "$${$1}")
}
