package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
)

// capturer is capture.Manager.
type capturer interface {
	Run(ctx context.Context) error
	Apply(ctx context.Context, c capture.Config, undo time.Duration) (capture.Applied, error)
	Confirm(ctx context.Context) error
	Remove(ctx context.Context) (changed bool, err error)
	SetDNS(ctx context.Context, on bool) error
	SetDown(ctx context.Context, workload string, down bool) error
	Status(ctx context.Context) (capture.Status, error)
	Brief() (applied, settled bool)
	Lost(workload string) (why string)
	Repairs() int64
	Overtaken() int
	Verify(ctx context.Context) ([]capture.Probe, error)
	Plan(ctx context.Context, c capture.Config, known capture.Known) (*capture.Plan, error)
}

// CaptureApplied is what an apply came to.
type CaptureApplied struct {
	capture.Applied
	Confirmed bool            `json:"confirmed"`
	Probes    []capture.Probe `json:"probes"`
	Workloads []string        `json:"workloads"`
	Held      []capture.Stop  `json:"held,omitempty"` // workloads that are left out, and why
}

// baseConfig is a capture of no workload, as the settings want one.
func (a *Agent) baseConfig() capture.Config {
	c := capture.Config{NeverPorts: a.cfg.Capture.NeverPorts, DNS: a.cfg.DNS.Enabled, DNSHost: a.cfg.DNS.Scope == "host",
		AgentUIDs: []uint32{uint32(os.Geteuid())}, Servers: a.serverAddresses()}
	if _, port, err := net.SplitHostPort(a.cfg.DNS.Address); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			c.DNSPort = uint16(n)
		}
	}
	return c
}

var errNoCapture = errors.New("this agent captures nothing: it runs with explicit ports (kerege dev)")

// captureConfig says what is to be captured: every workload that is not held and
// has not left. Those left out are listed with the reason.
func (a *Agent) captureConfig(ssh string) (capture.Config, []capture.Stop, error) {
	c := a.baseConfig()
	var err error
	if c.Sessions, err = capture.SSHSessions(ssh); err != nil {
		return c, nil, fmt.Errorf("looking for SSH sessions, which must survive: %w", err)
	}
	if name := a.cfg.Envoy.User; name != "" {
		if _, err := capture.LookupUser(name); err != nil {
			return c, nil, fmt.Errorf("finding envoy's user: %w", err)
		}
	}
	var held []capture.Stop
	a.surveyNow()
	a.mu.Lock()
	list := a.workloads
	a.mu.Unlock()
	for _, w := range list {
		if w.held != "" {
			held = append(held, capture.Stop{Workload: w.key(), What: "it is held", Mend: w.held})
			continue
		}
		cw, err := a.captured(w)
		if err != nil {
			return c, held, err
		}
		c.Workloads = append(c.Workloads, cw)
		if w.own != nil {
			c.NeverPorts = append(c.NeverPorts, w.own.Capture.NeverPorts...)
		}
		if uid, _ := a.owner(w); uid >= 0 && !slices.Contains(c.EnvoyUIDs, uint32(uid)) {
			c.EnvoyUIDs = append(c.EnvoyUIDs, uint32(uid))
		}
	}
	return c, held, nil
}

func (a *Agent) captured(w *workload) (capture.Workload, error) {
	out := capture.Workload{Name: w.key(), OutboundPort: w.outbound(), InboundPort: w.inbound(), Ports: w.Ports}
	if uid, _ := a.owner(w); uid > 0 {
		out.EnvoyUID = uint32(uid)
	}
	switch {
	case w.who.netns != "":
		out.Netns = w.who.netns
	case w.who.slice != "":
		out.Slice = w.who.slice
	default:
		out.User, out.UIDs = w.who.user, []uint32{w.who.uid}
	}
	blocks := []config.Capture{a.cfg.Capture}
	if w.own != nil {
		blocks = append(blocks, w.own.Capture)
	}
	out.Bypass = a.bypass(w)
	for _, b := range blocks {
		out.ExcludeInbound = append(out.ExcludeInbound, b.ExcludeInbound...)
		out.ExcludeOutbound = append(out.ExcludeOutbound, b.ExcludeOutbound...)
		for _, list := range []struct {
			from []string
			to   *[]netip.Prefix
		}{{b.ExcludeAddresses, &out.ExcludeAddresses}, {b.IncludeAddresses, &out.IncludeAddresses}} {
			for _, text := range list.from {
				p, err := prefix(text)
				if err != nil {
					return out, fmt.Errorf("reading an address of the capture of %s: %w", w.key(), err)
				}
				*list.to = append(*list.to, p)
			}
		}
		for _, name := range b.ExcludeUsers {
			uid, err := capture.LookupUser(name)
			if err != nil {
				return out, err
			}
			out.ExcludeUIDs = append(out.ExcludeUIDs, uid)
		}
	}
	return out, nil
}

func prefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// serverAddresses are those of the control plane, never captured.
func (a *Agent) serverAddresses() []netip.Addr {
	m, _ := a.id.Mesh()
	var out []netip.Addr
	for _, s := range a.known(m.Servers) {
		host, _, err := net.SplitHostPort(s)
		if err != nil {
			continue
		}
		found := []string{host}
		if _, err := netip.ParseAddr(host); err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			found, err = net.DefaultResolver.LookupHost(ctx, host)
			cancel()
			if err != nil {
				a.log.Warn("a server's name does not resolve, so its address is not kept out of the capture", "server", s, "error", err)
			}
		}
		for _, f := range found {
			if addr, err := netip.ParseAddr(f); err == nil && !slices.Contains(out, addr.Unmap()) {
				out = append(out, addr.Unmap())
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// CapturePlan is what CaptureApply would do now, and what that would mean. ssh is
// SSH_CONNECTION of who asks. Workloads that are held are listed with the reason;
// where nothing else is, that is a stop.
func (a *Agent) CapturePlan(ctx context.Context, ssh string, accept int) (*capture.Plan, error) {
	if a.cap == nil {
		return nil, errNoCapture
	}
	c, held, err := a.captureConfig(ssh)
	if err != nil {
		return nil, err
	}
	plan, err := a.cap.Plan(ctx, c, a.knows(ctx, c, ssh, accept))
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		if len(c.Workloads) == 0 {
			plan.Stops = append(plan.Stops, h)
			continue
		}
		plan.Workloads = append(plan.Workloads, capture.PlannedWorkload{Name: h.Workload, Notes: []string{"held, and left out: " + h.Mend}})
	}
	if len(c.Workloads) == 0 {
		if err := a.standing("identity"); err != nil {
			plan.Stops = []capture.Stop{{What: "this host is not in the mesh", Mend: err.Error()}}
		} else if len(held) == 0 {
			plan.Stops = append(plan.Stops, capture.Stop{What: "nothing to capture", Mend: "no registry places a service on the node " + a.node()})
		}
	}
	return plan, nil
}

const (
	undoAfter  = 60 * time.Second
	probeUntil = 8 * time.Second
)

// CaptureApply captures the workloads. It undoes itself after a while unless its
// own probe passes (and the request does not forbid that) or Confirm is called.
func (a *Agent) CaptureApply(ctx context.Context, req api.CaptureApply) (CaptureApplied, error) {
	var out CaptureApplied
	if a.cap == nil {
		return out, errNoCapture
	}
	if err := a.standing("dns"); err != nil {
		return out, err
	}
	c, held, err := a.captureConfig(req.SSH)
	out.Held = held
	if err != nil {
		return out, err
	}
	if len(c.Workloads) == 0 {
		if len(held) > 0 {
			return out, capture.Stops(held)
		}
		return out, errors.New("nothing to capture: no registry places a service on this node")
	}
	for _, w := range c.Workloads {
		out.Workloads = append(out.Workloads, w.Name)
	}
	plan, err := a.cap.Plan(ctx, c, a.knows(ctx, c, req.SSH, req.Accept))
	if err != nil {
		return out, err
	}
	if len(plan.Stops) > 0 {
		return out, capture.Stops(plan.Stops)
	}
	undo := time.Duration(req.UndoSeconds * float64(time.Second))
	if undo <= 0 {
		undo = undoAfter
	}
	if out.Applied, err = a.cap.Apply(ctx, c, undo); err != nil {
		return out, err
	}
	a.memory.change(func(s *state) {
		for _, k := range out.Workloads {
			delete(s.Left, k)
		}
	})
	out.Probes, out.Confirmed, err = a.probeAndConfirm(ctx, req.Manual)
	poke(a.poked)
	return out, err
}

// probeAndConfirm tries the capture until it works or time is up.
func (a *Agent) probeAndConfirm(ctx context.Context, manual bool) (probes []capture.Probe, confirmed bool, err error) {
	end := time.Now().Add(probeUntil)
	for {
		probes, err = a.cap.Verify(ctx)
		if err != nil || capture.Passed(probes) || time.Now().After(end) {
			break
		}
		select {
		case <-ctx.Done():
			return probes, false, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	if err != nil || manual || !capture.Passed(probes) {
		return probes, false, err
	}
	if err := a.cap.Confirm(ctx); err != nil {
		return probes, false, err
	}
	return probes, true, nil
}

// CaptureConfirm makes the capture stay.
func (a *Agent) CaptureConfirm(ctx context.Context) error {
	if a.cap == nil {
		return errNoCapture
	}
	err := a.cap.Confirm(ctx)
	poke(a.poked)
	return err
}

// CaptureStatus is what is captured now.
func (a *Agent) CaptureStatus(ctx context.Context) (capture.Status, error) {
	if a.cap == nil {
		return capture.Status{}, errNoCapture
	}
	return a.cap.Status(ctx)
}

// CaptureVerify probes the capture now.
func (a *Agent) CaptureVerify(ctx context.Context) ([]capture.Probe, error) {
	if a.cap == nil {
		return nil, errNoCapture
	}
	return a.cap.Verify(ctx)
}

// watchEvery is how often Envoys are looked for whose workloads go around them
// when they are gone.
const watchEvery = 250 * time.Millisecond

// watchEnvoys lets traffic of workloads in bypass around an Envoy that does not
// listen, and through it again once it does. It looks at the port, not at the
// stream: an agent that has just started has no streams yet.
func (a *Agent) watchEnvoys(ctx context.Context) {
	down := map[string]bool{}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.mu.Lock()
		list := a.workloads
		a.mu.Unlock()
		for _, w := range list {
			if w.held != "" || !a.bypass(w) {
				continue
			}
			l, err := a.find(w.who.netns, w.outbound())
			if gone := err == nil && len(l) == 0; err != nil || gone == down[w.key()] {
				continue
			}
			down[w.key()] = !down[w.key()]
			a.log.Warn("traffic of a workload changes its way", "workload", w.key(), "around_envoy", down[w.key()])
			if err := a.cap.SetDown(ctx, w.key(), down[w.key()]); err != nil && ctx.Err() == nil {
				a.log.Error("changing the way of a workload's traffic", "workload", w.key(), "error", err)
				down[w.key()] = !down[w.key()]
			}
		}
	}
}

func (a *Agent) bypass(w *workload) bool {
	if w.own != nil && w.own.Capture.OnEnvoyDown != "" {
		return w.own.Capture.OnEnvoyDown == "bypass"
	}
	return a.cfg.Capture.OnEnvoyDown == "bypass"
}
