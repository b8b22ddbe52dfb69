package mesh

import (
	"hash/fnv"
	"strings"
)

// tree is a persistent map from strings, sorted by key: with and without give a
// new tree that shares all but O(log n) nodes with the old one. It is a treap
// whose priorities are hashes of the keys, so its shape depends on its content
// alone and not on the order of the edits. The zero tree is empty.
type tree[V any] struct {
	root *treeNode[V]
}

type treeNode[V any] struct {
	key         string
	prio        uint64
	val         V
	left, right *treeNode[V]
}

func (t tree[V]) get(key string) V {
	for n := t.root; n != nil; {
		switch {
		case key < n.key:
			n = n.left
		case key > n.key:
			n = n.right
		default:
			return n.val
		}
	}
	var zero V
	return zero
}

func (t tree[V]) with(key string, val V) tree[V] {
	h := fnv.New64a()
	h.Write([]byte(key))
	return tree[V]{t.root.insert(&treeNode[V]{key: key, prio: mix(h.Sum64()), val: val})}
}

func (t tree[V]) without(key string) tree[V] {
	root, _ := t.root.remove(key)
	return tree[V]{root}
}

// all calls f for every entry in the order of the keys.
func (t tree[V]) all(f func(key string, val V)) {
	t.root.walk(f)
}

func (n *treeNode[V]) walk(f func(string, V)) {
	if n == nil {
		return
	}
	n.left.walk(f)
	f(n.key, n.val)
	n.right.walk(f)
}

// scan calls f, in order, for every entry whose key starts with prefix, with the
// rest of the key.
func (t tree[V]) scan(prefix string, f func(rest string, val V)) {
	t.root.scan(prefix, f)
}

func (n *treeNode[V]) scan(prefix string, f func(string, V)) {
	if n == nil {
		return
	}
	rest, in := strings.CutPrefix(n.key, prefix)
	if in || n.key > prefix {
		n.left.scan(prefix, f)
	}
	if in {
		f(rest, n.val)
	}
	if in || n.key < prefix {
		n.right.scan(prefix, f)
	}
}

func (n *treeNode[V]) insert(add *treeNode[V]) *treeNode[V] {
	if n == nil {
		return add
	}
	if add.key == n.key {
		add.left, add.right = n.left, n.right
		return add
	}
	if add.above(n) {
		add.left, add.right = n.split(add.key)
		return add
	}
	c := *n
	if add.key < n.key {
		c.left = n.left.insert(add)
	} else {
		c.right = n.right.insert(add)
	}
	return &c
}

// split parts a subtree that does not hold key into what is before and after it.
func (n *treeNode[V]) split(key string) (before, after *treeNode[V]) {
	if n == nil {
		return nil, nil
	}
	c := *n
	if n.key < key {
		c.right, after = n.right.split(key)
		return &c, after
	}
	before, c.left = n.left.split(key)
	return before, &c
}

func (n *treeNode[V]) remove(key string) (*treeNode[V], bool) {
	if n == nil {
		return nil, false
	}
	if key == n.key {
		return n.left.join(n.right), true
	}
	c := *n
	var found bool
	if key < n.key {
		c.left, found = n.left.remove(key)
	} else {
		c.right, found = n.right.remove(key)
	}
	if !found {
		return n, false
	}
	return &c, true
}

// join makes one tree of two, all keys of n being before those of o.
func (n *treeNode[V]) join(o *treeNode[V]) *treeNode[V] {
	if n == nil {
		return o
	}
	if o == nil {
		return n
	}
	if n.above(o) {
		c := *n
		c.right = n.right.join(o)
		return &c
	}
	c := *o
	c.left = n.join(o.left)
	return &c
}

func (n *treeNode[V]) above(o *treeNode[V]) bool {
	if n.prio != o.prio {
		return n.prio > o.prio
	}
	return n.key < o.key
}

// mix spreads the hash, whose high bits barely differ between similar names.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
