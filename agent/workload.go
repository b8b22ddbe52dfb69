package agent

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

// Explicit says how a service is reached where nothing is captured (kerege dev).
type Explicit struct {
	Upstreams []envoy.Explicit // services at 127.0.0.1:LocalPort
	Accept    []envoy.Accept   // where calls arrive, and where the application is
}

// workload is one service on this node, with what is known of its program.
type workload struct {
	placement
	id       mesh.ProxyID
	dir      string // of its sockets
	slot     int
	own      *config.Workload // its block in agent.hcl; nil: none
	who      who
	held     string // why it cannot be in the mesh; "": it can
	explicit *Explicit
}

// who is the program that is captured.
type who struct {
	by    string // how it was found
	user  string
	uid   uint32
	slice string // cgroup path
	netns string // path
	pid   int
}

func (w *workload) inbound() uint16 {
	if w.explicit != nil {
		return 0
	}
	return capture.InboundPort(w.slot)
}

func (w *workload) outbound() uint16 {
	if w.explicit != nil {
		return 0
	}
	return capture.OutboundPort(w.slot)
}

// finder looks for the programs that listen: capture.Find.
type finder func(netns string, ports ...uint16) ([]capture.Listener, error)

// survey lists this node's workloads, sorted by key: what the registries place
// here, and what agent.hcl names beside.
func (a *Agent) survey(placed []placement) []*workload {
	var out []*workload
	seen := map[string]bool{}
	a.recall()
	for _, p := range placed {
		if seen[p.key()] || mesh.CheckName(p.Service) != nil || p.Workload != "" && mesh.CheckNode(p.Workload) != nil {
			continue
		}
		seen[p.key()], seen[p.Service] = true, true
		if p.Gone && !a.isIn(p.key()) {
			continue
		}
		out = append(out, a.workload(p))
	}
	for i := range a.cfg.Workloads {
		if own := &a.cfg.Workloads[i]; !seen[own.Name] {
			w := &workload{placement: placement{Service: own.Name, Ports: own.Ports}, id: a.proxyID(own.Name, ""), own: own}
			w.held = fmt.Sprintf("no registry places %s on the node %s; register it there, or mend the name in agent.hcl", own.Name, a.node())
			if err := a.standing("identity"); err != nil {
				w.held = "not known yet whether a registry places it here: " + err.Error()
			}
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b *workload) int { return strings.Compare(a.key(), b.key()) })
	a.holdShared(out)
	return out
}

func (a *Agent) isIn(key string) (in bool) {
	a.memory.look(func(s *state) { in = s.In[key] })
	return in
}

func (a *Agent) proxyID(service, workload string) mesh.ProxyID {
	return mesh.ProxyID{Service: mesh.ServiceName(service), Node: a.node(), Workload: workload}
}

func (a *Agent) proxyDir(key string) string {
	return filepath.Join(a.cfg.RunDir, "proxy", strings.ReplaceAll(key, "/", "."))
}

func (a *Agent) workload(p placement) *workload {
	w := &workload{placement: p, id: a.proxyID(p.Service, p.Workload), slot: a.memory.slot(p.key())}
	w.dir = a.proxyDir(p.key())
	for i := range a.cfg.Workloads {
		if a.cfg.Workloads[i].Name == p.Service {
			w.own = &a.cfg.Workloads[i]
		}
	}
	if w.own != nil && len(w.own.Ports) > 0 {
		w.Ports = w.own.Ports
	}
	if a.opt.Explicit != nil {
		x, ok := a.opt.Explicit[p.key()]
		if !ok {
			x = a.opt.Explicit[p.Service]
		}
		w.explicit, w.who = &x, who{by: "explicit"}
		return w
	}
	if !a.allocated(w) {
		w.who, w.held = a.program(w)
	}
	return w
}

// lookAgain is how long a found program is believed without another look.
const lookAgain = 30 * time.Second

type found struct {
	who  who
	held string
	at   time.Time
}

// program says who the application is, or why it is held. Looking through all
// processes is not cheap, so what was found is kept for a while, and what was
// not found for a short one.
func (a *Agent) program(w *workload) (who, string) {
	a.mu.Lock()
	old, known := a.programs[w.key()]
	a.mu.Unlock()
	age := time.Since(old.at)
	if known && (age < a.every || old.held == "" && age < lookAgain) {
		return old.who, old.held
	}
	f := found{at: time.Now()}
	var err error
	if f.who, err = identifyProgram(w, a.find); err != nil {
		f.held = err.Error()
		if known && old.held == "" {
			f = found{who: old.who, at: f.at} // it is restarting: who it is has not changed
		}
	}
	a.mu.Lock()
	a.programs[w.key()] = f
	a.mu.Unlock()
	return f.who, f.held
}

// identifyProgram says who the application is: by agent.hcl, else by who listens
// on its port. An error is a sentence for the operator.
func identifyProgram(w *workload, find finder) (who, error) {
	own := w.own
	switch {
	case own == nil || own.User == "" && own.Unit == "" && own.Slice == "" && own.Netns == "":
		return byListener(w, "", find)
	case own.Netns != "":
		path := filepath.Join("/run/netns", own.Netns)
		if _, err := find(path, w.Ports...); err != nil {
			return who{}, err // a namespace that cannot be entered must not keep the others out
		}
		return who{by: "agent.hcl: netns " + own.Netns, netns: path}, nil
	case own.Slice != "":
		return who{by: "agent.hcl: slice " + own.Slice, slice: capture.SlicePath(own.Slice)}, nil
	case own.Unit != "":
		return byListener(w, own.Unit, find)
	}
	uid, err := capture.LookupUser(own.User)
	if err != nil {
		return who{}, err
	}
	out := who{by: "agent.hcl: user " + own.User, user: own.User, uid: uid}
	if l, err := find("", w.Ports...); err == nil && len(l) > 0 && l[0].UID == uid {
		out.pid = l[0].PID
	}
	return out, nil
}

func byListener(w *workload, unit string, find finder) (who, error) {
	from := w.Source
	if from == "" {
		from = "registry"
	}
	if len(w.Ports) == 0 {
		return who{}, fmt.Errorf("%s knows no port of %s: write ports into a workload %q block of agent.hcl", from, w.Service, w.Service)
	}
	found, err := find("", w.Ports...)
	if err != nil {
		return who{}, fmt.Errorf("looking for who listens on %v: %w", w.Ports, err)
	}
	for _, l := range found {
		if unit != "" && l.Unit != unit {
			continue
		}
		out := who{by: from + " + listening socket", user: l.User, uid: l.UID, pid: l.PID}
		if unit != "" {
			out.by = "agent.hcl: unit " + unit
		}
		if l.UID != 0 {
			return out, nil
		}
		if top, _, _ := strings.Cut(l.Slice, "/"); l.Slice != "" && l.Slice != "system.slice" && top != "user.slice" {
			out.slice = l.Slice
			return out, nil
		}
		return who{}, fmt.Errorf("%s listens on :%d as root (pid %d): capture by user would take all of the host's own traffic; give its unit a User= or a Slice= of its own", l.Program, l.Port, l.PID)
	}
	if unit != "" {
		return who{}, fmt.Errorf("no program of unit %s listens on %v yet", unit, w.Ports)
	}
	return who{}, fmt.Errorf("nothing listens on %v yet, so its user is not known; start it, or write a workload %q block into agent.hcl", w.Ports, w.Service)
}

// owner is the user that a workload's Envoy runs as: its sockets are that user's.
// -1: the agent's own.
func (a *Agent) owner(w *workload) (uid, gid int) {
	names := []string{"kerege-envoy-" + w.Service, "kerege-envoy"}
	if own := a.cfg.Envoy.User; own != "" {
		// One that does not exist is not replaced by another: the socket would be a stranger's.
		names[1] = own
	} else {
		names = append(names, a.excludedUsers(w)...)
	}
	for _, name := range names {
		uid, err := capture.LookupUser(name)
		if err != nil {
			continue
		}
		if u, err := user.LookupId(strconv.Itoa(int(uid))); err == nil {
			return ids(u)
		}
		return int(uid), int(uid) // a number without a name
	}
	return -1, -1
}

func ids(u *user.User) (uid, gid int) {
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if errors.Join(err1, err2) != nil {
		return -1, -1
	}
	return uid, gid
}

func (a *Agent) excludedUsers(w *workload) []string {
	var out []string
	if w.own != nil {
		out = append(out, w.own.Capture.ExcludeUsers...)
	}
	return append(out, a.cfg.Capture.ExcludeUsers...)
}

// noIPv6 says whether a listener on IPv6 would be refused where the workload is.
func noIPv6(netns string) bool {
	refused := false
	err := capture.InNamespace(netns, func() error {
		l, err := net.Listen("tcp6", "[::1]:0")
		if err != nil {
			refused = true
			return nil
		}
		return l.Close()
	})
	return err == nil && refused
}
