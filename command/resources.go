package command

import (
	"maps"
	"slices"
	"strings"
)

// kinds are the resources of a proxy in an operator's words, in the order in which
// they are told of.
var kinds = []struct{ one, many string }{
	{"listener", "listeners"}, {"route", "routes"}, {"policy", "policies"}, {"cluster", "clusters"},
	{"endpoint list", "endpoint lists"}, {"other resource", "other resources"},
}

// kindOf gives a resource's kind, the service that it is about ("": the proxy itself),
// and what it counts as: the parts of one port's policy are one.
func kindOf(resource string) (kind int, service, as string) {
	typ, name, _ := strings.Cut(resource, " ")
	kind = map[string]int{"Listener": 0, "RouteConfiguration": 1, "TypedExtensionConfig": 2, "Secret": 2, "Cluster": 3, "ClusterLoadAssignment": 4}[typ]
	if typ != "Listener" && kind == 0 {
		kind = len(kinds) - 1
	}
	as = name
	if kind == 2 {
		_, as, _ = strings.Cut(name, ":") // rbac:, callers:, open:
	}
	service = as
	for _, prefix := range []string{"upstream/", "direct/"} {
		service = strings.TrimPrefix(service, prefix)
	}
	service, _, of := strings.Cut(service, ":")
	if service, _, _ = strings.Cut(service, "."); !of || strings.HasPrefix(service, "[") || strings.TrimLeft(service, "0123456789") == "" {
		service = "" // inbound, passthrough, an instance's own address
	}
	return kind, service, as
}

// inWords sums resources up: "1 route, 2 policies of api; 1 listener".
func inWords(resources []string) string {
	type of struct {
		kind    int
		service string
	}
	seen, counts, services := map[string]bool{}, map[of]int{}, map[string]bool{}
	for _, r := range resources {
		kind, service, as := kindOf(r)
		if id := kinds[kind].one + " " + as; !seen[id] {
			seen[id] = true
			counts[of{kind, service}]++
			services[service] = true
		}
	}
	var parts []string
	for _, service := range slices.Sorted(maps.Keys(services)) {
		var list []string
		for kind, words := range kinds {
			if n := counts[of{kind, service}]; n > 0 {
				list = append(list, count(n, words.one, words.many))
			}
		}
		text := strings.Join(list, ", ")
		if service != "" {
			text += " of " + service
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}
