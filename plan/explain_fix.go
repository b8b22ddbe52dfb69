package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// asked is a call in one line.
func asked(c Call, connects bool) string {
	verb := "calls"
	if connects {
		verb = "connects to"
	}
	text := fmt.Sprintf("%s %s %s", c.From, verb, c.To)
	if c.Port != "" {
		text += ", port " + c.Port
	}
	if c.Method != "" || c.Path != "" {
		text += ": " + strings.TrimSpace(c.Method+" "+c.Path)
	}
	names := make([]string, 0, len(c.Headers))
	for name, value := range c.Headers {
		names = append(names, name+"="+value)
	}
	slices.Sort(names)
	if len(names) > 0 {
		text += ", " + strings.Join(names, ", ")
	}
	return text + "."
}

// inSubset says whether an instance is one of a subset's; "" is all of the service.
func inSubset(svc *mesh.Service, subset string, in *mesh.Instance) bool {
	if subset == "" {
		return true
	}
	i := slices.IndexFunc(svc.Subsets, func(s mesh.Subset) bool { return s.Name == subset })
	return i >= 0 && svc.Subsets[i].Match.Match(in)
}

// allowing is the HCL that would let a call through which no block speaks of: of
// all that the caller may ask of the port where it asked for nothing in
// particular, else of this method and path alone.
func allowing(v *View, c Call, svc *mesh.Service, port mesh.Port, path string) string {
	req := request(v, c, port, svc.Name, path)
	path, _, _ = strings.Cut(path, "?")
	path, _, _ = strings.Cut(path, "#")
	args := []string{fmt.Sprintf("from = [%q]", c.From)}
	beside := mesh.Pos{}
	narrow := path != "/" && path != "" || c.Method != "GET" && c.Method != ""
	for _, in := range v.Intentions(svc.Name) {
		if in.Label == string(svc.Name) {
			beside = in.Pos
		}
		for i := range in.Rules {
			r := &in.Rules[i]
			if r.Action == mesh.ActionAllow && policy.Names(r, string(c.From)) && policy.HasHTTP(r) {
				narrow = true // its rights are by method and path
			}
		}
	}
	if narrow && req.HTTP {
		if c.Method != "" {
			args = append(args, fmt.Sprintf("methods = [%q]", c.Method))
		}
		args = append(args, fmt.Sprintf("path = %q", path))
	}
	if len(svc.Ports) > 1 && port.Name != "" {
		args = append(args, fmt.Sprintf("ports = [%q]", port.Name))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "intention %q {\n", svc.Name)
	if beside != (mesh.Pos{}) {
		fmt.Fprintf(&b, "  # beside what is there: %s\n", beside)
	}
	if len(args) == 1 {
		fmt.Fprintf(&b, "  allow { %s }\n}\n", args[0])
		return b.String()
	}
	width := 0
	for _, a := range args {
		width = max(width, strings.Index(a, " "))
	}
	b.WriteString("  allow {\n")
	for _, a := range args {
		name, value, _ := strings.Cut(a, " = ")
		fmt.Fprintf(&b, "    %-*s = %s\n", width, name, value)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}
