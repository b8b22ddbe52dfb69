package ca

import (
	"crypto/subtle"
	"time"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// SetLeft notes that a node gave its identity up, or, with false, that it is there
// after all. It is for who lists nodes, and sends nobody away.
func (t *Tokens) SetLeft(nodeName string, left bool) error {
	t.mu.Lock()
	n := t.table.Nodes[nodeName]
	same := n == nil || n.Left.IsZero() == !left
	t.mu.Unlock()
	if same {
		return nil
	}
	return t.change(func(v *table) error {
		if n := v.Nodes[nodeName]; n != nil {
			n.Left = time.Time{}
			if left {
				n.Left = t.opt.Now().Round(0)
			}
		}
		return nil
	})
}

// NodeOf is the node that a token was made for; "" for one that lets its bearer
// choose, and for a text that is no token of this server.
func (t *Tokens) NodeOf(text string) string {
	shown, err := keregev1.ParseJoinToken(text)
	if err != nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out, hash := "", hashOf(shown)
	for _, k := range t.table.Tokens {
		if subtle.ConstantTimeCompare([]byte(k.Hash), []byte(hash)) == 1 {
			out = k.Node
		}
	}
	return out
}
