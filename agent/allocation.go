package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/agent/identity"
	"github.com/kerege/kerege/api"
)

// namedSpaces is where Nomad keeps the network namespaces of its allocations, each
// under its allocation's id.
const namedSpaces = "/run/netns"

// space is a network namespace that the sidecar of an allocation runs in, as it is
// remembered across restarts.
type space struct {
	Path string `json:"path"`
	UID  int    `json:"uid"` // of the sidecar, and so of Envoy
}

// claim is what the sidecar of an allocation has shown.
type claim struct {
	space
	held     *os.File // the namespace; nil: the host's own
	evidence string   // secret
	captured bool
}

// claims are those of all workloads, by key.
type claims struct {
	mu  sync.Mutex
	all map[string]*claim
}

func (c *claims) get(key string) (claim, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.all[key]; x != nil {
		return *x, true
	}
	return claim{}, false
}

func (c *claims) change(key string, f func(*claim)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]*claim{}
	}
	if c.all[key] == nil {
		c.all[key] = &claim{}
	}
	f(c.all[key])
}

// evidence is what is sent with a request for a certificate: "" where nothing was shown.
func (c *claims) evidence(w identity.Workload) string {
	x, _ := c.get(key(string(w.Service), w.Workload))
	return x.evidence
}

// serveClaim takes in what a sidecar says of itself: its evidence, by its own
// word, and its network namespace, by the kernel's.
func (a *Agent) serveClaim(r *http.Request) (any, error) {
	return read(r, func(ctx context.Context, in api.AgentClaim) (any, error) {
		k := key(r.PathValue("service"), in.Workload)
		var known bool
		a.memory.look(func(s *state) {
			known = slices.ContainsFunc(s.Placed, func(p placement) bool { return p.key() == k && p.Workload != "" })
		})
		if !known {
			return nil, &api.Error{Status: http.StatusNotFound, Title: fmt.Sprintf("no registry places %s on this node yet", k), Detail: a.ready(r.PathValue("service"), in.Workload).Why}
		}
		who, _ := r.Context().Value(callerKey{}).(caller)
		if uid, _ := a.owner(&workload{placement: placement{Service: r.PathValue("service")}}); !trusted(r) && who.uid != uid {
			return nil, &api.Error{Status: http.StatusForbidden, Title: fmt.Sprintf("the proxy of %s runs as user %d, and you are %d", k, uid, who.uid), Detail: "run kerege envoy as that user"}
		}
		path, file, err := spaceOf(who, in.Workload)
		if err != nil {
			return nil, &api.Error{Status: http.StatusForbidden, Title: err.Error()}
		}
		a.claimed(k, holder(&workload{placement: placement{Service: r.PathValue("service"), Workload: in.Workload}}), space{path, who.uid}, file, in.Evidence)
		return struct{}{}, nil
	})
}

func (a *Agent) claimed(k string, holder identity.Workload, s space, file *os.File, evidence string) {
	news := false
	a.claims.change(k, func(c *claim) {
		news = c.evidence != evidence
		c.evidence = evidence
		if file == nil {
			return
		}
		if c.held != nil && c.space == s && sameFile(c.held, file) {
			file.Close()
			return
		}
		if c.held != nil {
			c.held.Close()
		}
		c.space, c.held, c.captured, news = s, file, false, true
	})
	if !news {
		return
	}
	if file != nil {
		a.memory.change(func(st *state) { st.Spaces[k] = s })
	}
	a.log.Info("an allocation's sidecar is here", "workload", k, "netns", s.Path, "evidence", evidence != "")
	a.id.Retry(holder)
	poke(a.poked)
}

// spaceOf opens the network namespace of a caller; nil is the agent's own. The
// name that Nomad gave it is better than a process's: it outlives both.
func spaceOf(who caller, workload string) (path string, file *os.File, err error) {
	if who.pid <= 0 {
		return "", nil, errors.New("who called is not known")
	}
	path = fmt.Sprintf("/proc/%d/ns/net", who.pid)
	if file, err = os.Open(path); err != nil {
		return "", nil, fmt.Errorf("the network namespace of process %d cannot be opened (it takes CAP_SYS_PTRACE): %w", who.pid, err)
	}
	owner, err := os.Stat(fmt.Sprintf("/proc/%d", who.pid))
	if st, is := statOf(owner); err != nil || !is || int(st.Uid) != who.uid {
		file.Close()
		return "", nil, fmt.Errorf("process %d is not who called any more", who.pid)
	}
	own, err := os.Stat("/proc/self/ns/net")
	if here, e := file.Stat(); err == nil && e == nil && os.SameFile(own, here) {
		file.Close()
		return "", nil, nil
	}
	names, _ := os.ReadDir(namedSpaces) // a host without any has none
	for _, n := range names {
		at := filepath.Join(namedSpaces, n.Name())
		if !samePath(at, file) {
			continue
		}
		if n.Name() == workload {
			return at, file, nil
		}
		if isAllocation(n.Name()) {
			file.Close()
			return "", nil, fmt.Errorf("the caller is in the network namespace of allocation %s, not of %s", n.Name(), workload)
		}
	}
	return path, file, nil
}

// isAllocation tells whether a name has the form of an allocation's id.
func isAllocation(name string) bool {
	return len(name) == 36 && strings.Count(name, "-") == 4
}

func statOf(info os.FileInfo) (*syscall.Stat_t, bool) {
	if info == nil {
		return nil, false
	}
	st, is := info.Sys().(*syscall.Stat_t)
	return st, is
}

func samePath(path string, file *os.File) bool {
	x, err1 := os.Stat(path)
	y, err2 := file.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	y, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(x, y)
}

// allocated says what is known of a workload that is an allocation with a network
// namespace of its own; false: it is found as any other.
func (a *Agent) allocated(w *workload) bool {
	if w.placement.Workload == "" || w.own != nil && w.own.Netns != "" {
		return false
	}
	c, _ := a.claims.get(w.key())
	if c.held == nil {
		if !w.Inside && (len(w.Addresses) == 0 || a.ours(w.Addresses)) {
			return false
		}
		w.dir, w.held = "", fmt.Sprintf("its allocation has a network namespace of its own, and its sidecar has not called yet: a task of its job runs `kerege envoy -service %s -workload $NOMAD_ALLOC_ID`", w.Service)
		return true
	}
	w.who = who{by: w.Source + " + its sidecar's network namespace", netns: c.Path}
	if !w.Inside && a.ours(w.Addresses) {
		w.held = "it is registered at ports that Nomad maps on this host, and which ports they are inside is not known yet: the server asks Nomad (its settings need a nomad block)"
	}
	if c.UID == 0 {
		w.held = "its sidecar runs as root, as whom its Envoy's calls cannot be told from the application's: write user = … into the task, and the same user into envoy { user } of agent.hcl"
	}
	return true
}

// ours tells whether one of the addresses is this host's.
func (a *Agent) ours(list []string) bool {
	own := a.addresses()
	return slices.ContainsFunc(list, func(text string) bool {
		addr, err := netip.ParseAddr(text)
		return err == nil && (addr.IsLoopback() || slices.Contains(own, text))
	})
}

// recall opens the namespaces that were claimed before this agent started, and
// lets go of those that are no more: with its namespace an allocation is over.
func (a *Agent) recall() {
	var spaces map[string]space
	var placed []placement
	a.memory.look(func(s *state) { spaces, placed = cloneMap(s.Spaces), s.Placed })
	var over []string
	for k, s := range spaces {
		c, _ := a.claims.get(k)
		if c.held == nil && strings.HasPrefix(s.Path, namedSpaces+"/") {
			if file, err := os.Open(s.Path); err == nil {
				c.held = a.reclaimed(k, s, file)
			}
		}
		if c.held != nil && samePath(s.Path, c.held) {
			continue
		}
		a.letGo(k, s)
		if !slices.ContainsFunc(placed, func(p placement) bool { return p.key() == k && !p.Gone }) {
			over = append(over, k)
		}
	}
	if len(over) == 0 {
		return
	}
	a.memory.change(func(s *state) {
		for _, k := range over {
			delete(s.Spaces, k)
			delete(s.In, k)
			delete(s.Left, k)
			delete(s.Slots, k)
		}
		s.Placed = slices.DeleteFunc(slices.Clone(s.Placed), func(p placement) bool { return p.Gone && slices.Contains(over, p.key()) })
	})
	for _, k := range over {
		a.clear(k)
	}
	a.log.Info("allocations are over", "workloads", over)
	poke(a.changed)
}

// clear removes the folder of an allocation's proxy: no other will have its name.
func (a *Agent) clear(k string) {
	if err := os.RemoveAll(a.proxyDir(k)); err != nil {
		a.log.Warn("what is no longer needed stays on disk", "workload", k, "error", err)
	}
}

// vacant says that no Envoy has an allocation's folder: its sidecar has not called.
func (a *Agent) vacant(k string) bool {
	if _, id := cutKey(k); id == "" {
		return false
	}
	_, claimed := a.claims.get(k)
	known := false
	a.memory.look(func(s *state) { _, known = s.Spaces[k] })
	_, err := os.Stat(envoy.AdminSocket(a.proxyDir(k)))
	return !claimed && !known && errors.Is(err, os.ErrNotExist)
}

// reclaimed takes a namespace that was claimed before this agent started. Who is
// in the mesh was captured then; what an operator has taken away since stays away.
func (a *Agent) reclaimed(k string, s space, file *os.File) (held *os.File) {
	in := a.isIn(k)
	a.claims.change(k, func(c *claim) {
		if c.held != nil { // its sidecar was quicker
			file.Close()
			held = c.held
			return
		}
		c.space, c.held, c.captured = s, file, in
		held = file
	})
	return held
}

func cloneMap(in map[string]space) map[string]space {
	out := make(map[string]space, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

// letGo closes what is open in a namespace.
func (a *Agent) letGo(k string, s space) {
	a.claims.mu.Lock()
	c := a.claims.all[k]
	delete(a.claims.all, k)
	a.claims.mu.Unlock()
	if c != nil && c.held != nil {
		c.held.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, socket := range a.spaceSockets[s.Path] {
		_ = socket.Close() // the namespace is no more
	}
	delete(a.spaceSockets, s.Path)
	delete(a.spaces, s.Path)
}

// captureAllocations captures in the namespaces of allocations by itself: they hold
// nothing but the workload, no session of an operator among it. The capture of
// the host's own workloads stays as it is on record; an allocation whose capture
// was taken away by hand is not captured again.
func (a *Agent) captureAllocations(ctx context.Context, list []*workload) {
	if a.cap == nil || a.standing("dns") != nil {
		return
	}
	st, err := a.cap.Status(ctx)
	if err != nil || !st.Deadline.IsZero() {
		return // it is looked at again in a moment
	}
	var c capture.Config
	if st.Config != nil {
		c = *st.Config
	}
	was := len(c.Workloads)
	var over map[string]space
	a.memory.look(func(s *state) { over = cloneMap(s.Spaces) })
	c.Workloads = slices.DeleteFunc(slices.Clone(c.Workloads), func(w capture.Workload) bool {
		_, known := over[w.Name]
		_, claimed := a.claims.get(w.Name)
		return strings.Contains(w.Name, "/") && w.Netns != "" && (!known || !claimed) && !slices.ContainsFunc(list, func(x *workload) bool { return x.key() == w.Name && x.who.netns == w.Netns })
	})
	changed := len(c.Workloads) != was
	var fresh []string
	for _, w := range list {
		claim, ok := a.claims.get(w.key())
		was := slices.IndexFunc(c.Workloads, func(x capture.Workload) bool { return x.Name == w.key() })
		if claim.captured && (was < 0 || slices.Equal(c.Workloads[was].Ports, w.Ports)) {
			continue // or it was taken away by hand
		}
		if !ok || claim.held == nil || w.held != "" || w.who.netns != claim.Path || a.proxy(w.key()) == nil {
			continue
		}
		if shared(list, w) && a.id.Get(holder(w)) == nil {
			continue // the calls of another in its namespace would go to an Envoy that has nothing to show
		}
		cw, err := a.captured(w)
		if err != nil {
			a.log.Error("an allocation cannot be captured", "workload", w.key(), "error", err)
			continue
		}
		c.Workloads = append(slices.DeleteFunc(c.Workloads, func(x capture.Workload) bool { return x.Name == cw.Name }), cw)
		if !slices.Contains(c.EnvoyUIDs, uint32(claim.UID)) {
			c.EnvoyUIDs = append(slices.Clone(c.EnvoyUIDs), uint32(claim.UID))
		}
		fresh = append(fresh, w.key())
	}
	if len(fresh) == 0 && !changed {
		return
	}
	if st.Config == nil {
		base := a.baseConfig()
		base.Workloads, base.EnvoyUIDs = c.Workloads, c.EnvoyUIDs
		c = base
	}
	a.applyAllocations(ctx, c, fresh)
}

// shared tells whether another workload is in the network namespace of one.
func shared(list []*workload, w *workload) bool {
	return slices.ContainsFunc(list, func(x *workload) bool { return x != w && x.who.netns == w.who.netns })
}

func (a *Agent) applyAllocations(ctx context.Context, c capture.Config, fresh []string) {
	var err error
	if len(c.Workloads) == 0 {
		_, err = a.cap.Remove(ctx)
	} else {
		_, err = a.cap.Apply(ctx, c, 0)
	}
	if err != nil {
		a.log.Error("capturing allocations; it is tried again", "workloads", fresh, "error", err)
		return
	}
	for _, k := range fresh {
		a.claims.change(k, func(c *claim) { c.captured = true })
		a.log.Info("captured in its network namespace", "workload", k)
	}
}

// bridge are this host's addresses on the network of an allocation's own namespace:
// from there its checks come. Nobody else on that network has them.
func (a *Agent) bridge(w *workload) (out []netip.Addr) {
	if w.placement.Workload == "" || w.who.netns == "" {
		return nil
	}
	var theirs []net.Addr
	err := capture.InNamespace(w.who.netns, func() (err error) {
		theirs, err = net.InterfaceAddrs()
		return err
	})
	if err != nil {
		a.log.Warn("the allocation's network cannot be seen; checks from its bridge are refused", "workload", w.key(), "error", err)
		return nil
	}
	return onNetworks(a.addresses(), theirs)
}

// onNetworks are those of the own addresses, sorted, that are on a network of others.
func onNetworks(own []string, theirs []net.Addr) (out []netip.Addr) {
	for _, text := range own {
		addr, err := netip.ParseAddr(text)
		if err == nil && slices.ContainsFunc(theirs, func(x net.Addr) bool {
			p, err := netip.ParsePrefix(x.String())
			return err == nil && !p.IsSingleIP() && !p.Addr().IsLoopback() && p.Addr() != addr && p.Masked().Contains(addr)
		}) {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// spaceOpened keeps the resolver's sockets of a namespace; mu is held.
func (a *Agent) spaceOpened(netns string, sockets ...io.Closer) {
	if a.spaceSockets == nil {
		a.spaceSockets = map[string][]io.Closer{}
	}
	a.spaceSockets[netns] = append(a.spaceSockets[netns], sockets...)
}
