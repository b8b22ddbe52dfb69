package ca

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// Role is what a token lets its bearer become.
type Role string

// RoleNode is a host of the mesh.
const RoleNode Role = "node"

const (
	defaultTokenTTL = 600 * time.Second
	maxTokenTTL     = 7 * 24 * time.Hour
	keepSpent       = 24 * time.Hour // so that a replay is told from a guess
	maxTokens       = 10_000
)

// ErrToken is wrapped when a token is refused. Its text is one sentence for
// whoever showed it, and tells a stranger nothing.
var ErrToken = errors.New("refused")

// ErrTooFast is wrapped when an address tries again within a second.
var ErrTooFast = errors.New("one try a second; wait, then try again")

// TokenOptions say what tokens carry and who hears of them.
type TokenOptions struct {
	CAHash  func() [32]byte // of the active root: Authority.Hash
	Servers []string        // host:port for a joining node to try; may be empty
	Now     func() time.Time
	// Audit hears of each creation, try, eviction and ban. No value is secret.
	Audit func(event string, keyValues ...any)

	// KeepAway is how long the mark of a node that was sent away is kept: as long as
	// anything can still be open that it opened. 0 is 31 days.
	KeepAway time.Duration

	step func(string)
}

// Tokens is the durable table of join tokens and of the nodes that joined. What
// it returns is on disk.
type Tokens struct {
	opt   TokenOptions
	path  string
	disk  disk
	tries tries

	mu    sync.Mutex
	table table
}

// table is what is on disk. Of a token only the hash of its secret is kept.
type table struct {
	Tokens []token          `json:"tokens"`
	Nodes  map[string]*node `json:"nodes"`
	Away   []away           `json:"away,omitempty"` // in the order they were sent away
}

type token struct {
	Hash    string    `json:"hash"` // SHA-256 of the secret, hex
	Node    string    `json:"node"` // "" any
	Role    Role      `json:"role"`
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
	Spent   time.Time `json:"spent"` // zero: not yet
	By      string    `json:"by"`    // the node that spent it
}

// node is a host that joined, or was sent away.
type node struct {
	Joined  time.Time `json:"joined"`
	Address string    `json:"address"`
	Since   time.Time `json:"since"` // a certificate issued before is refused
	Evicted bool      `json:"evicted"`
	Banned  string    `json:"banned"`        // the reason; "" is not banned
	Left    time.Time `json:"left,omitzero"` // it gave its identity up; zero: it did not
}

// OpenTokens reads the table in path, or starts an empty one where there is no
// file. An error that wraps ErrDamaged says what is wrong with it.
func OpenTokens(path string, opt TokenOptions) (*Tokens, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Audit == nil {
		opt.Audit = func(string, ...any) {}
	}
	t := &Tokens{opt: opt, path: path, disk: disk{step: opt.step}, table: table{Nodes: map[string]*node{}}}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("opening the join tokens: %w", err)
	}
	body, err := readFile(path, "tokens")
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the join tokens: %w", err)
	}
	if err := json.Unmarshal(body, &t.table); err != nil {
		return nil, fmt.Errorf("opening the join tokens: %s: %w: %w", path, ErrDamaged, err)
	}
	if t.table.Nodes == nil {
		t.table.Nodes = map[string]*node{}
	}
	return t, nil
}

// Create makes a token for a node ("" lets its bearer choose a new name) that
// works once within ttl; 0 is ten minutes. It returns the only copy of the
// secret. A token that names a node which is in already lets that host join
// again, in place of the one that is in.
func (t *Tokens) Create(nodeName string, role Role, ttl time.Duration) (keregev1.JoinToken, time.Time, error) {
	fail := func(format string, args ...any) (keregev1.JoinToken, time.Time, error) {
		return keregev1.JoinToken{}, time.Time{}, fmt.Errorf("making a join token: "+format, args...)
	}
	if nodeName != "" {
		if err := mesh.CheckNode(nodeName); err != nil {
			return fail("the node %s %w", mesh.Quote(nodeName), err)
		}
	}
	if role != RoleNode {
		return fail("the role %s is not known; it is %q", mesh.Quote(string(role)), RoleNode)
	}
	if ttl == 0 {
		ttl = defaultTokenTTL
	}
	if ttl < 0 || ttl > maxTokenTTL {
		return fail("it may live up to %s", maxTokenTTL)
	}
	secret := keregev1.NewJoinToken(t.opt.CAHash(), t.opt.Servers)
	now := t.opt.Now().Round(0)
	made := token{Hash: hashOf(secret), Node: nodeName, Role: role, Made: now, Expires: now.Add(ttl)}
	err := t.change(func(v *table) error {
		if n := v.Nodes[nodeName]; nodeName != "" && n != nil && n.Banned != "" {
			return fmt.Errorf("the node %s is banned (%s)", mesh.Quote(nodeName), n.Banned)
		}
		if len(v.Tokens) >= maxTokens {
			return fmt.Errorf("there are %d that have not expired; wait for some to", maxTokens)
		}
		v.Tokens = append(v.Tokens, made)
		return nil
	})
	t.opt.Audit("join token made", "node", nodeName, "role", role, "expires", made.Expires, "result", result(err))
	if err != nil {
		return fail("%w", err)
	}
	return secret, made.Expires, nil
}

func hashOf(s keregev1.JoinToken) string {
	sum := sha256.Sum256(s.Secret[:])
	return hex.EncodeToString(sum[:])
}

func result(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// Spend uses up a token for a node that joins from an address (without port). Of
// any number of calls with one token exactly one returns nil, and then it is
// spent on disk. An error that wraps ErrToken or ErrTooFast is the caller's
// fault, any other ours.
func (t *Tokens) Spend(text, nodeName, address string) error {
	err := t.spend(text, nodeName, address)
	t.opt.Audit("join", "node", nodeName, "address", address, "result", result(err))
	return err
}

func (t *Tokens) spend(text, nodeName, address string) error {
	if !t.tries.allow(address, t.opt.Now()) {
		return fmt.Errorf("joining: %w", ErrTooFast)
	}
	shown, err := keregev1.ParseJoinToken(text)
	if err != nil {
		return fmt.Errorf("joining is %w: %w", ErrToken, err)
	}
	if err := mesh.CheckNode(nodeName); err != nil {
		return fmt.Errorf("joining is %w: the node's name %s %w", ErrToken, mesh.Quote(nodeName), err)
	}
	return t.change(func(v *table) error {
		now := t.opt.Now().Round(0)
		i, why := v.judge(hashOf(shown), nodeName, now)
		if why != "" {
			return fmt.Errorf("joining is %w: %s", ErrToken, why)
		}
		v.Tokens[i].Spent, v.Tokens[i].By = now, nodeName
		since := time.Time{} // the host that was in under the name is out
		if v.Nodes[nodeName] != nil {
			v.sendAway(nodeName, now)
			since = now.Truncate(time.Second) // as exact as a certificate's times
		}
		v.Nodes[nodeName] = &node{Joined: now, Address: address, Since: since}
		return nil
	})
}

// judge finds a token by the hash of its secret; why is a sentence where it does
// not let the node in.
func (v *table) judge(hash, nodeName string, now time.Time) (i int, why string) {
	i = -1
	for j := range v.Tokens {
		if subtle.ConstantTimeCompare([]byte(v.Tokens[j].Hash), []byte(hash)) == 1 {
			i = j
		}
	}
	if i < 0 {
		return i, "this server does not know the token; make a new one with `kerege token create`"
	}
	k, n := v.Tokens[i], v.Nodes[nodeName]
	switch {
	case !k.Spent.IsZero():
		return i, fmt.Sprintf("the token was used at %s by the node %s; if that was not you, someone else has joined with it: `kerege node evict %s`, then make a new token", day(k.Spent), mesh.Quote(k.By), k.By)
	case now.After(k.Expires):
		return i, fmt.Sprintf("the token expired at %s; make a new one with `kerege token create`", day(k.Expires))
	case k.Node != "" && k.Node != nodeName:
		return i, fmt.Sprintf("the token is for another node than %s; set node in agent.hcl, or make a token for this name", mesh.Quote(nodeName))
	case n != nil && n.Banned != "":
		return i, fmt.Sprintf("the node %s is banned", mesh.Quote(nodeName))
	case n != nil && n.Evicted && k.Made.Before(n.Since):
		return i, fmt.Sprintf("the token was made before the node %s was sent away at %s; make a new one with `kerege token create -node %s`",
			mesh.Quote(nodeName), day(n.Since), nodeName)
	case n != nil && !n.Evicted && n.Left.IsZero() && (k.Node == "" || !k.Made.After(n.Joined)):
		return i, fmt.Sprintf("a node %s joined at %s from %s; choose another name, or make a token for this very name with `kerege token create -node %s` to replace it",
			mesh.Quote(nodeName), day(n.Joined), n.Address, nodeName)
	}
	return i, ""
}

// change edits a copy of the table, writes it, and only then makes it the table.
func (t *Tokens) change(edit func(*table) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.opt.Now()
	next := table{Nodes: map[string]*node{}, Away: recent(t.table.Away, now, or(t.opt.KeepAway, defaultKeepAway))}
	for _, k := range t.table.Tokens {
		if now.Before(k.Expires.Add(keepSpent)) {
			next.Tokens = append(next.Tokens, k)
		}
	}
	for name, n := range t.table.Nodes {
		c := *n
		next.Nodes[name] = &c
	}
	if err := edit(&next); err != nil {
		return err
	}
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := t.disk.write(t.path, "tokens", body); err != nil {
		return err
	}
	t.table = next
	return nil
}

// Evict sends a node away: certificates issued to it so far are refused by
// servers, and so are tokens made so far that name it, or nobody. It may join
// again with a new token. Ban also refuses that.
func (t *Tokens) Evict(nodeName string) error {
	err := t.out(nodeName, func(n *node) { n.Evicted = true })
	t.opt.Audit("node evicted", "node", nodeName, "result", result(err))
	return err
}

// Ban evicts a node and lets none of that name join until Unban. reason is shown
// to operators.
func (t *Tokens) Ban(nodeName, reason string) error {
	err := t.out(nodeName, func(n *node) { n.Evicted, n.Banned = true, cmp.Or(reason, "no reason given") })
	t.opt.Audit("node banned", "node", nodeName, "reason", reason, "result", result(err))
	return err
}

// Expects says whether a token that is not used was made for a node.
func (t *Tokens) Expects(nodeName string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.opt.Now()
	return slices.ContainsFunc(t.table.Tokens, func(k token) bool {
		return nodeName != "" && k.Node == nodeName && k.Spent.IsZero() && now.Before(k.Expires)
	})
}

// Unban lets a node join again, with a new token.
func (t *Tokens) Unban(nodeName string) error {
	err := t.change(func(v *table) error {
		if n := v.Nodes[nodeName]; n != nil {
			n.Banned = ""
		}
		return nil
	})
	t.opt.Audit("node no longer banned", "node", nodeName, "result", result(err))
	return err
}

func (t *Tokens) out(nodeName string, edit func(*node)) error {
	if err := mesh.CheckNode(nodeName); err != nil {
		return fmt.Errorf("evicting: the node's name %s %w", mesh.Quote(nodeName), err)
	}
	return t.change(func(v *table) error {
		n := v.Nodes[nodeName]
		if n == nil {
			n = &node{}
			v.Nodes[nodeName] = n
		}
		n.Since = t.opt.Now().Round(0)
		v.sendAway(nodeName, n.Since)
		edit(n)
		return nil
	})
}

// Admitted says whether a node may still use a certificate issued at a time. The
// error is a sentence for the node. A node that the table does not know is
// admitted: its certificate is proof enough, and a lost table is no eviction.
func (t *Tokens) Admitted(nodeName string, issued time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.table.Nodes[nodeName]
	switch {
	case n == nil:
		return nil
	case n.Banned != "":
		return fmt.Errorf("the node %s is banned: its identities are not renewed", mesh.Quote(nodeName))
	case n.Evicted:
		return fmt.Errorf("the node %s was evicted at %s; it comes back with `kerege join` and a new token", mesh.Quote(nodeName), day(n.Since))
	case issued.Before(n.Since):
		return fmt.Errorf("another host joined as %s at %s; this one needs a name and a token of its own", mesh.Quote(nodeName), day(n.Since))
	}
	return nil
}

// JoinedNode is a node in the table.
type JoinedNode struct {
	Name, Address string
	Joined        time.Time
	Evicted       bool
	Banned        string    // the reason
	Since         time.Time // of the eviction or ban
	Left          time.Time // it gave its identity up; zero: it did not
}

// Nodes lists the nodes that ever joined or were sent away, sorted.
func (t *Tokens) Nodes() []JoinedNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []JoinedNode
	for _, name := range slices.Sorted(maps.Keys(t.table.Nodes)) {
		n := t.table.Nodes[name]
		list = append(list, JoinedNode{Name: name, Address: n.Address, Joined: n.Joined, Evicted: n.Evicted, Banned: n.Banned, Since: n.Since, Left: n.Left})
	}
	return list
}
