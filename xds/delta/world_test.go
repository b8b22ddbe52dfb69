package delta

import (
	"fmt"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// choices is a source of decisions: bytes of a fuzzer, zeros when they are used up.
type choices struct{ b []byte }

func (c *choices) n(max int) int {
	if len(c.b) == 0 {
		return 0
	}
	v := int(c.b[0])
	c.b = c.b[1:]
	return v % max
}

// world makes wishes that are closed under references and shares what is alike.
type world struct {
	made   map[string]*Resource
	groups map[*Resource]*Group
	ever   map[string]bool // type, name and version of all that was ever wanted
}

func newWorld() *world {
	return &world{made: map[string]*Resource{}, groups: map[*Resource]*Group{}, ever: map[string]bool{}}
}

func (w *world) get(key string, mk func() *Resource) *Resource {
	if w.made[key] == nil {
		w.made[key] = mk()
	}
	return w.made[key]
}

func (w *world) wish(c *choices) *Set {
	var rs []*Resource
	var clusters, routes []string
	for i := range 4 {
		if c.n(3) == 0 {
			continue
		}
		name := fmt.Sprintf("c%d", i)
		clusters = append(clusters, name)
		v, e := c.n(3), c.n(3)
		rs = append(rs, w.get(fmt.Sprint("c", name, v), func() *Resource { return cluster(name, v) }),
			w.get(fmt.Sprint("e", name, e), func() *Resource { return endpoints(name, e) }))
	}
	for i := range 3 {
		if len(clusters) == 0 || c.n(3) == 0 {
			continue
		}
		name, a, b := fmt.Sprintf("r%d", i), clusters[c.n(len(clusters))], clusters[c.n(len(clusters))]
		routes = append(routes, name)
		rs = append(rs, w.get(fmt.Sprint("r", name, a, b), func() *Resource { return route(name, 0, a, b) }))
	}
	var ext, secret string
	if c.n(2) == 0 {
		ext = "x"
		v := fmt.Sprint(c.n(3))
		rs = append(rs, w.get("x"+v, func() *Resource { return mk(TypeExtension, "x", &discovery.Resource{Version: v}) }))
	}
	if c.n(2) == 0 {
		secret = "s"
		v := fmt.Sprint(c.n(3))
		rs = append(rs, w.get("s"+v, func() *Resource { return mk(TypeSecret, "s", &discovery.Resource{Version: v}) }))
	}
	for i := range 2 {
		var rds, tcp string
		if len(routes) > 0 {
			rds = routes[c.n(len(routes))]
		}
		if len(clusters) > 0 {
			tcp = clusters[c.n(len(clusters))]
		}
		if c.n(3) == 0 {
			continue
		}
		name := fmt.Sprintf("l%d", i)
		rs = append(rs, w.get(fmt.Sprint("l", name, rds, ext, secret, tcp), func() *Resource { return listener(name, 0, rds, ext, secret, tcp) }))
	}
	out := &Set{}
	for _, r := range rs {
		w.ever[r.Type+r.Name+r.Version] = true
		if w.groups[r] == nil {
			w.groups[r] = &Group{Key: r.Type + r.Name, Resources: []*Resource{r}}
		}
		out.Groups = append(out.Groups, w.groups[r])
	}
	slices.SortFunc(out.Groups, func(a, b *Group) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return out
}

func (w *world) of(typ, name, version string) *Resource {
	for _, r := range w.made {
		if r.Type == typ && r.Name == name && r.Version == version {
			return r
		}
	}
	return nil
}
