package config

import (
	"fmt"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// targets reads a rule's `to` blocks and gives each its weight. The sum is
// shown added up where it is wrong.
func (b *builder) targets(n *node) []mesh.Target {
	var out []mesh.Target
	var rest []int
	sum := uint32(0)
	blocks := n.all("to")
	for i, x := range blocks {
		service, subset, _ := strings.Cut(x.label, ".")
		t := mesh.Target{Service: mesh.ServiceName(service), Subset: subset, IfEmpty: x.text("if_empty"), Pos: pos(x.rng)}
		if w := x.args["weight"]; w != nil {
			h := hundredths(w.number)
			t.Weight = &h
			sum += h
		} else {
			rest = append(rest, i)
		}
		out = append(out, t)
		b.mesh.places.targets = append(b.mesh.places.targets, placed{service: t.Service, where: place{x.labelRng, x.in}})
	}
	switch {
	case len(out) == 0 || n.bad || badAny(blocks):
		return out
	case len(rest) > 1:
		d := b.errorf(codeWeights, blocks[rest[1]].where(), "Only one target may leave its weight out; it takes the rest.", "%d targets have no weight", len(rest))
		b.relate(d, blocks[rest[0]].rng, "the first without one")
		return out
	case len(rest) == 1 && sum > hundred, len(rest) == 0 && sum != hundred:
		b.wrongSum(n, blocks, sum)
		return out
	case len(rest) == 1:
		left := hundred - sum
		out[rest[0]].Weight = &left
	}
	return out
}

func badAny(nodes []*node) bool {
	for _, x := range nodes {
		if x.bad {
			return true
		}
	}
	return false
}

func (b *builder) wrongSum(n *node, blocks []*node, sum uint32) {
	var parts []string
	last := blocks[0]
	for _, x := range blocks {
		if w := x.args["weight"]; w != nil {
			parts = append(parts, plain(w.number))
			last = x
		}
	}
	added := fmt.Sprintf("%s = %s", strings.Join(parts, " + "), plain(float64(sum)/100))
	if len(parts) == 1 {
		added = parts[0]
	}
	d := b.errorf(codeWeights, last.whereArg("weight"), weightFix(blocks, sum), "the weights of rule %s are %s, not 100", shownText(n.label), added)
	for _, x := range blocks {
		if x != last && x.has("weight") {
			b.relate(d, x.args["weight"].rng, fmt.Sprintf("%s has %s", x.label, plain(x.args["weight"].number)))
		}
	}
}

func weightFix(blocks []*node, sum uint32) string {
	if sum < hundred {
		return fmt.Sprintf("%s are missing; one target may leave its weight out and takes the rest.", plain(float64(hundred-sum)/100))
	}
	return fmt.Sprintf("%s too much.", plain(float64(sum-hundred)/100))
}
