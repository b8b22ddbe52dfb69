package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// BlockChange is one block of HCL that two generations do not have alike.
type BlockChange struct {
	Block string // `route "api"`
	How   string // added, removed, changed
	Pos   mesh.Pos
	Edits []Edit // of a block that is changed, in the order of its fields
}

// Edit is one thing in a block that is another than before, in words:
// `rule "canary": to "api.v2": weight 10 % → 99 %`.
type Edit struct {
	What string
	Pos  mesh.Pos // of the innermost block that says it; where that is gone, as it was
}

// Blocks compares what two generations of the files say, block by block, whatever
// becomes of it in the mesh. Where in a file something stands makes no difference.
func Blocks(old, new mesh.Part) []BlockChange {
	var all []BlockChange
	all = append(all, blocksOf("mesh", listOf(old.Mesh), listOf(new.Mesh), func(mesh.Config) string { return "" }, func(c mesh.Config) mesh.Pos { return c.Pos })...)
	all = append(all, blocksOf("defaults", old.Defaults, new.Defaults, func(d mesh.Defaults) string { return d.Label }, func(d mesh.Defaults) mesh.Pos { return d.Pos })...)
	all = append(all, blocksOf("service", old.Services, new.Services, func(s mesh.ServiceConfig) string { return string(s.Name) }, func(s mesh.ServiceConfig) mesh.Pos { return s.Pos })...)
	all = append(all, blocksOf("instance", old.Instances, new.Instances, func(i mesh.Instance) string { return string(i.Service) + "/" + i.ID }, func(i mesh.Instance) mesh.Pos { return i.Pos })...)
	all = append(all, blocksOf("route", old.Routes, new.Routes, func(r mesh.Route) string { return string(r.Service) }, func(r mesh.Route) mesh.Pos { return r.Pos })...)
	all = append(all, blocksOf("intention", old.Intentions, new.Intentions, func(i mesh.Intention) string { return i.Label }, func(i mesh.Intention) mesh.Pos { return i.Pos })...)
	return all
}

// blocksOf compares the blocks of one kind. Several may have one label: the first
// then answers to the first.
func blocksOf[T any](kind string, old, new []T, label func(T) string, pos func(T) mesh.Pos) []BlockChange {
	type key struct {
		label string
		nth   int
	}
	index := func(list []T) map[key]*T {
		m, seen := map[key]*T{}, map[string]int{}
		for i := range list {
			l := label(list[i])
			m[key{l, seen[l]}] = &list[i]
			seen[l]++
		}
		return m
	}
	was, is := index(old), index(new)
	var keys []key
	for k := range was {
		keys = append(keys, k)
	}
	for k := range is {
		if was[k] == nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return cmp.Or(strings.Compare(a.label, b.label), cmp.Compare(a.nth, b.nth)) })
	var all []BlockChange
	for _, k := range keys {
		c := BlockChange{Block: strings.TrimSpace(kind + " " + quoted(k.label)), How: "changed"}
		switch a, b := was[k], is[k]; {
		case a == nil:
			c.How, c.Pos = "added", pos(*b)
		case b == nil:
			c.How, c.Pos = "removed", pos(*a)
		default:
			if c.Pos, c.Edits = pos(*b), edits(*a, *b); len(c.Edits) == 0 {
				continue
			}
		}
		all = append(all, c)
	}
	return all
}

func quoted(label string) string {
	if label == "" {
		return ""
	}
	return fmt.Sprintf("%q", label)
}

func listOf(c *mesh.Config) []mesh.Config {
	if c == nil {
		return nil
	}
	return []mesh.Config{*c}
}
