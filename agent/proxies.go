package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/cut"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/agent/relay"
)

// running is what serves one workload's Envoy on its socket.
type running struct {
	relay *relay.Proxy
	open  *cut.Proxy // what callers hold open at it
	stand stand      // whose and where it is
	stop  func()
}

// stand is whose a workload's socket is, and the network namespace it is about.
type stand struct {
	uid, gid int
	netns    string
}

// startProxy opens a workload's socket with its configuration and certificates.
func (a *Agent) startProxy(ctx context.Context, w *workload) (*running, error) {
	metadata, err := asMap(envoy.Metadata{InboundPort: w.inbound(), OutboundPort: w.outbound(), Explicit: w.upstreams(), Accept: w.accepts(), NoIPv6: noIPv6(w.who.netns), Bridge: a.bridge(w)})
	if err != nil {
		return nil, fmt.Errorf("describing proxy %s: %w", w.id, err)
	}
	uid, gid := a.socketOwner(w)
	sock, err := relay.Listen(envoy.XDSSocket(w.dir), uid, gid, a.log.Named("relay"))
	if err != nil {
		return nil, err
	}
	netns := w.who.netns
	open := cut.New(cut.Config{
		ID: w.id.String(), InboundPort: w.inbound(), Logger: a.log.Named("cut"),
		Accept: ports(w.accepts()),
		Enter:  func(do func() error) error { return capture.InNamespace(netns, do) },
	})
	p := relay.New(relay.Config{
		ID: w.id.String(), Cluster: w.Service, Metadata: map[string]any{"kerege": metadata},
		File: a.resourcesFile(w), Key: a.key, Servers: a.conn(),
		Notify: func() { poke(a.poked) }, Shown: open.Shown, Logger: a.log.Named("relay"),
	})
	// Who sends here is the proxy's user: what it can make this process hold is bounded.
	g := grpc.NewServer(grpc.MaxRecvMsgSize(4<<20), grpc.MaxSendMsgSize(64<<20), grpc.MaxConcurrentStreams(256),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	p.Register(g)
	open.Register(g)
	a.mu.Lock()
	secrets := a.secrets
	a.mu.Unlock()
	waitSecrets := func() {}
	if secrets != nil {
		waitSecrets = secrets(g, w)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	wg.Go(func() { open.Run(ctx) })
	wg.Go(func() { _ = g.Serve(sock) })
	return &running{relay: p, open: open, stand: stand{uid, gid, netns}, stop: func() {
		cancel()
		g.Stop()
		wg.Wait()
		p.Wait()
		open.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		last := open.Counts()
		last.Open = 0
		a.cutBefore = a.cutBefore.Add(last)
		waitSecrets()
	}}, nil
}

// socketOwner is whose the socket of a workload's proxy is.
func (a *Agent) socketOwner(w *workload) (uid, gid int) {
	if w.explicit != nil {
		return -1, -1
	}
	return a.owner(w)
}

// at says whether a workload's socket is as it should be. Where one that is held
// is, is not known.
func (r *running) at(p stand, held bool) bool {
	if held {
		p.netns = r.stand.netns
	}
	return r.stand == p
}

func (a *Agent) standOf(w *workload) stand {
	uid, gid := a.socketOwner(w)
	return stand{uid, gid, w.who.netns}
}

func (a *Agent) resourcesFile(w *workload) string {
	return filepath.Join(a.cfg.DataDir, "proxies", strings.ReplaceAll(w.key(), "/", ".")+".state")
}

func (w *workload) upstreams() []envoy.Explicit {
	if w.explicit == nil {
		return nil
	}
	return w.explicit.Upstreams
}

func (w *workload) accepts() []envoy.Accept {
	if w.explicit == nil {
		return nil
	}
	return w.explicit.Accept
}

func ports(list []envoy.Accept) (out []uint16) {
	for _, a := range list {
		out = append(out, a.Listen.Port())
	}
	return out
}

func asMap(v any) (out map[string]any, err error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return out, json.Unmarshal(text, &out)
}

// bootstrap is the one that a workload's Envoy starts with.
func (a *Agent) bootstrap(w *workload, l envoy.Limits) ([]byte, error) {
	return envoy.Bootstrap(envoy.Config{ID: w.id, Dir: w.dir, InboundPort: w.inbound(), OutboundPort: w.outbound(),
		Explicit: w.upstreams(), Accept: w.accepts(), NoIPv6: noIPv6(w.who.netns), Limits: l})
}

// tendProxies keeps a socket open for each workload until ctx is done.
func (a *Agent) tendProxies(ctx context.Context) {
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for {
		a.reconcile(ctx)
		select {
		case <-ctx.Done():
			a.stopProxies()
			return
		case <-a.poked:
		case <-tick.C:
		}
	}
}

// reconcile brings what runs in step with what is placed here.
func (a *Agent) reconcile(ctx context.Context) {
	defer a.pulse.begin("looking after the workloads")()
	var placed []placement
	a.memory.look(func(s *state) { placed = s.Placed })
	list := a.survey(placed)
	want := map[string]*workload{}
	for _, w := range list {
		if w.dir != "" {
			want[w.key()] = w
		}
	}
	a.mu.Lock()
	gone := map[string]*running{}
	for k, r := range a.proxies {
		if want[k] == nil {
			gone[k] = r
			delete(a.proxies, k)
		}
	}
	var fresh []*workload
	var moved []*running
	for k, w := range want {
		r := a.proxies[k]
		if r != nil && !r.at(a.standOf(w), w.held != "") {
			a.log.Info("a proxy's user or network namespace changed: its socket is opened anew", "workload", k, "uid", a.standOf(w).uid, "netns", w.who.netns)
			moved, r = append(moved, r), nil
			delete(a.proxies, k)
		}
		if r == nil {
			fresh = append(fresh, w)
		}
	}
	a.workloads = list
	a.mu.Unlock()
	for k, r := range gone {
		r.stop()
		a.log.Info("no longer placed here", "workload", k)
		if err := r.relay.Forget(); err != nil {
			a.log.Warn("what is no longer needed stays on disk", "workload", k, "error", err)
		}
		if a.vacant(k) {
			a.clear(k)
		}
	}
	for _, r := range moved {
		r.stop()
	}
	for _, w := range fresh {
		a.open(ctx, w)
	}
	a.wantIdentities(list)
	a.consider(ctx, list)
	a.answerNames()
}

// open starts a workload's proxy; what fails is held with its reason and tried
// again at the next look.
func (a *Agent) open(ctx context.Context, w *workload) {
	r, err := a.startProxy(ctx, w)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		if a.openErr[w.key()] != err.Error() {
			a.log.Error("a proxy's socket cannot be opened; it is tried again", "workload", w.key(), "error", err)
		}
		a.openErr[w.key()] = err.Error()
		return
	}
	delete(a.openErr, w.key())
	a.proxies[w.key()] = r
	a.log.Info("serving proxy", "workload", w.key(), "socket", envoy.XDSSocket(w.dir), "found_by", w.who.by, "held", w.held)
}

func (a *Agent) stopProxies() {
	a.mu.Lock()
	all := a.proxies
	a.proxies = map[string]*running{}
	a.mu.Unlock()
	for _, r := range all {
		r.stop()
	}
}

func (a *Agent) proxy(key string) *running {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.proxies[key]
}

// openDirs makes the folders that other users pass through to their own sockets.
func openDirs(dirs ...string) error {
	for _, d := range dirs {
		if _, err := os.Stat(d); err == nil {
			continue // as the operator or systemd made it
		}
		err := os.MkdirAll(d, 0o755)
		if err == nil {
			err = os.Chmod(d, 0o755) // whatever the umask is
		}
		if err != nil {
			return fmt.Errorf("making a folder for sockets: %w", err)
		}
	}
	return nil
}

func makeDirs(dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("making a folder: %w", err)
		}
	}
	return nil
}
