package config

import (
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Readers of a checked node. What is left out is nil, "" or false.

func (n *node) has(name string) bool { return n.args[name] != nil }

func (n *node) text(name string) string {
	if v := n.args[name]; v != nil {
		return v.text
	}
	return ""
}

func (n *node) textPtr(name string) *string {
	if v := n.args[name]; v != nil {
		return &v.text
	}
	return nil
}

func (n *node) flag(name string) bool {
	v := n.args[name]
	return v != nil && v.flag
}

func (n *node) flagPtr(name string) *bool {
	if v := n.args[name]; v != nil {
		return &v.flag
	}
	return nil
}

func (n *node) time(name string) *time.Duration {
	if v := n.args[name]; v != nil {
		return &v.time
	}
	return nil
}

func (n *node) int(name string) int {
	if v := n.args[name]; v != nil {
		return int(v.number)
	}
	return 0
}

func (n *node) intPtr(name string) *int {
	if v := n.args[name]; v != nil {
		i := int(v.number)
		return &i
	}
	return nil
}

func (n *node) uint32Ptr(name string) *uint32 {
	if v := n.args[name]; v != nil {
		i := uint32(v.number)
		return &i
	}
	return nil
}

func (n *node) percent(name string) *float64 {
	if v := n.args[name]; v != nil {
		return &v.number
	}
	return nil
}

func (n *node) texts(name string) []string {
	v := n.args[name]
	if v == nil {
		return nil
	}
	out := make([]string, len(v.items))
	for i, x := range v.items {
		out[i] = x.text
	}
	return out
}

func (n *node) ports(name string) []uint16 {
	v := n.args[name]
	if v == nil {
		return nil
	}
	out := make([]uint16, len(v.items))
	for i, x := range v.items {
		out[i] = uint16(x.number)
	}
	return out
}

func (n *node) textMap(name string) map[string]string {
	v := n.args[name]
	if v == nil {
		return nil
	}
	out := make(map[string]string, len(v.members))
	for _, m := range v.members {
		out[m.key] = m.text
	}
	return out
}

// block returns the one nested block of a type, or nil.
func (n *node) block(name string) *node {
	for _, b := range n.blocks {
		if b.schema.name == name {
			return b
		}
	}
	return nil
}

// all returns the nested blocks of a type, as written.
func (n *node) all(name string) []*node {
	var out []*node
	for _, b := range n.blocks {
		if b.schema.name == name {
			out = append(out, b)
		}
	}
	return out
}

// where is the place of a block's head.
func (n *node) where() place { return place{n.rng, n.in} }

// whereArg is the place of an argument's value.
func (n *node) whereArg(name string) place {
	if v := n.args[name]; v != nil {
		return place{v.rng, n.in}
	}
	return n.where()
}

// nameOf is the place of an argument's name.
func (n *node) nameOf(name string) hcl.Range {
	if v := n.args[name]; v != nil {
		return v.nameRng
	}
	return n.rng
}
