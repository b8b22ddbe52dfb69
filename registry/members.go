package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kerege/kerege/mesh"
)

// Record is one member and when its agent was last heard of.
type Record struct {
	mesh.Member
	Seen time.Time
}

// Members is the durable table of who is in the mesh. A member is on disk before
// the snapshot has it; it leaves by Remove, or when its node has not been heard
// of for MemberExpiry, and never because a stream ended.
type Members struct {
	h     *Hub
	store store

	mu    sync.Mutex
	table map[memberKey]Record
	seen  map[string]time.Time // by node
	wrote time.Time
	next  time.Time // of the next look for members that have expired
}

type memberKey struct{ service, node, workload string }

// seenEvery is how often "heard of" alone is written to disk: far less than any expiry.
const seenEvery = 10 * time.Minute

func newMembers(h *Hub) *Members {
	m := &Members{h: h, store: h.store("members", 1), table: map[memberKey]Record{}, seen: map[string]time.Time{}}
	var list []Record
	if err := m.store.read(&list); err != nil && !errors.Is(err, errNoFile) {
		h.log.Error("who is in the mesh is not known; agents say it again when they connect", "error", err)
	}
	for _, r := range list {
		m.table[keyOfMember(r.Member)] = r
	}
	return m
}

func keyOfMember(m mesh.Member) memberKey { return memberKey{string(m.Service), m.Node, m.Workload} }

// Put records members. When it returns nil they are on disk and on their way
// into the snapshot; with an error nothing of them is.
func (m *Members) Put(list ...mesh.Member) error {
	for _, x := range list {
		if err := checkMember(x); err != nil {
			return err
		}
	}
	return m.change(func(table map[memberKey]Record, now time.Time) {
		for _, x := range list {
			table[keyOfMember(x)] = Record{Member: x, Seen: now}
		}
	})
}

func checkMember(x mesh.Member) error {
	if err := mesh.CheckName(string(x.Service)); err != nil {
		return fmt.Errorf("putting a member: its service %s %w", mesh.Quote(string(x.Service)), err)
	}
	if err := mesh.CheckNode(x.Node); err != nil {
		return fmt.Errorf("putting a member: its node %s %w", mesh.Quote(x.Node), err)
	}
	return nil
}

// Replace makes a node's members those of want and no others, in one change:
// one that stays is at no moment out of the mesh. Members of other nodes in want
// are an error. When it returns nil the change is on disk; with an error nothing is.
func (m *Members) Replace(node string, want ...mesh.Member) error {
	for _, x := range want {
		if err := checkMember(x); err != nil {
			return err
		}
		if x.Node != node {
			return fmt.Errorf("replacing the members of node %s: one is of node %s", mesh.Quote(node), mesh.Quote(x.Node))
		}
	}
	return m.change(func(table map[memberKey]Record, now time.Time) {
		maps.DeleteFunc(table, func(k memberKey, _ Record) bool { return k.node == node })
		for _, x := range want {
			table[keyOfMember(x)] = Record{Member: x, Seen: now}
		}
	})
}

// Seen notes that a node's agent lives.
func (m *Members) Seen(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[node] = m.h.opt.Now()
}

// List gives all members, sorted by service, node and workload.
func (m *Members) List() []Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sorted(m.table)
}

func (m *Members) sorted(table map[memberKey]Record) []Record {
	var list []Record
	for _, r := range table {
		if t := m.seen[r.Node]; t.After(r.Seen) {
			r.Seen = t
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Workload, b.Workload))
	})
	return list
}

// change edits a copy of the table, writes it, and only then makes it the table.
func (m *Members) change(edit func(map[memberKey]Record, time.Time)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.h.opt.Now()
	next := map[memberKey]Record{}
	for _, r := range m.sorted(m.table) {
		next[keyOfMember(r.Member)] = r
	}
	edit(next, now)
	if err := m.store.write(m.sorted(next)); err != nil {
		return err
	}
	touched := map[string]bool{}
	for k := range m.table {
		if _, still := next[k]; !still {
			touched[k.service] = true
		}
	}
	for k, r := range next {
		if old, had := m.table[k]; !had || !sameMember(old.Member, r.Member) {
			touched[k.service] = true
		}
	}
	m.table, m.wrote = next, now
	m.h.Put(m.parts(touched)...)
	return nil
}

func sameMember(a, b mesh.Member) bool {
	return slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports)
}

// parts gives what is known of some services; one without a member is an empty part.
func (m *Members) parts(services map[string]bool) []mesh.Part {
	by := map[string]*mesh.Part{}
	for s := range services {
		by[s] = &mesh.Part{Source: "members", Scope: s}
	}
	for _, r := range m.sorted(m.table) {
		if p := by[string(r.Service)]; p != nil {
			p.Members = append(p.Members, r.Member)
		}
	}
	var list []mesh.Part
	for _, p := range by {
		list = append(list, *p)
	}
	sortParts(list)
	return list
}

// all gives every part, for the writer's start.
func (m *Members) all() []mesh.Part {
	m.mu.Lock()
	defer m.mu.Unlock()
	services := map[string]bool{}
	for k := range m.table {
		services[k.service] = true
	}
	return m.parts(services)
}

// expire drops those not heard of for long, writes down who was, and says when
// to look again.
func (m *Members) expire(now time.Time) time.Time {
	m.mu.Lock()
	if now.Before(m.next) {
		defer m.mu.Unlock()
		return m.next
	}
	m.next = now.Add(time.Minute)
	again, heard := m.next, false
	old := false
	for _, r := range m.table {
		seen := m.seen[r.Node]
		heard = heard || seen.After(r.Seen)
		old = old || now.Sub(r.Seen) >= m.h.opt.MemberExpiry && now.Sub(seen) >= m.h.opt.MemberExpiry
	}
	due := heard && now.Sub(m.wrote) >= seenEvery
	m.mu.Unlock()
	if !old && !due {
		return again
	}
	err := m.change(func(table map[memberKey]Record, now time.Time) {
		for k, r := range table {
			if now.Sub(r.Seen) >= m.h.opt.MemberExpiry {
				delete(table, k)
			}
		}
	})
	if err != nil {
		m.h.log.Error("who is in the mesh is not on disk", "error", err)
	}
	return again
}
