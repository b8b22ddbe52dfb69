package config

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
)

func sortBy[T any](s []T, key func(T) int) {
	slices.SortStableFunc(s, func(a, b T) int { return key(a) - key(b) })
}

// jsonBody reads a JSON body: JSON has no blocks of its own, so the schema says
// which properties are.
func (p *parser) jsonBody(body hcl.Body, n *node) {
	schema := &hcl.BodySchema{}
	for _, a := range n.schema.attrs {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: a.name})
	}
	for _, b := range n.schema.blocks {
		h := hcl.BlockHeaderSchema{Type: b.name}
		if b.labels() == 1 {
			h.LabelNames = []string{"label"}
		}
		schema.Blocks = append(schema.Blocks, h)
	}
	content, diags := body.Content(schema)
	if diags.HasErrors() {
		n.bad = true
		p.foreign(diags)
	}
	for _, a := range n.schema.attrs {
		given := content.Attributes[a.name]
		if given == nil {
			continue
		}
		p.hidden = a.typ == secret
		if r, ok := p.json(given.Expr, n.in); ok {
			p.argument(n, a, given.NameRange, r)
		} else {
			n.bad = true
		}
	}
	for _, b := range content.Blocks {
		label, rng, labelRng := "", b.TypeRange, b.TypeRange
		if len(b.Labels) == 1 {
			label, labelRng = b.Labels[0], b.LabelRanges[0]
			rng = labelRng
		}
		child := p.enter(n, n.schema.blockNamed(b.Type), label, labelRng, rng)
		p.jsonBody(b.Body, child)
		p.closed(child)
	}
}
