package command

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fatih/color"
	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/server"
)

const (
	devLook    = 200 * time.Millisecond // how often the applied generation is looked at
	devSettles = 30 * time.Second       // longest wait for the Envoys
	devFrozen  = 2 * time.Second        // while frozen: what is not there by then does not come
)

// devSession is one run of kerege dev.
type devSession struct {
	call    *Call
	flags   devFlags
	envoy   string // program
	run     string // sockets and what is only for this run
	data    string
	dir     string // mesh files
	sample  *devSample
	ports   *devPorts
	layouts *devLayouts
	log     hclog.Logger

	server *api.Client
	grpc   string
	agent  *agent.Agent
	stop   func() // ends the agent
	envoys *devEnvoys
	layout devLayout
	told   devLayout // as last printed
	frozen *api.Frozen
}

// serve runs the control plane and, while that stands, everything else.
func (d *devSession) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopServer, err := d.startServer(ctx, cancel)
	if err != nil {
		return err
	}
	defer stopServer()
	d.envoys = newDevEnvoys(d, cancel)
	// Envoys end first: they take their last word from the agent, and it from the server.
	defer func() { d.stopAgent() }()
	defer d.envoys.stopAll()
	err = d.follow(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// startServer returns when the control plane serves.
func (d *devSession) startServer(ctx context.Context, fail context.CancelCauseFunc) (stop func(), err error) {
	port, err := d.ports.take("server", firstServer)
	if err != nil {
		return nil, err
	}
	d.grpc = fmt.Sprintf("127.0.0.1:%d", port)
	cfg := &config.Server{
		Name: devNode, DataDir: filepath.Join(d.data, "server"), RunDir: d.run, MeshPaths: []string{d.dir}, Advertise: "127.0.0.1",
		Addresses: config.Addresses{GRPC: d.grpc, HTTPS: "none", Metrics: "none"}, FirstGrace: 5 * time.Second,
		CA: config.CA{LeafTTL: 24 * time.Hour, IntermediateTTL: 365 * 24 * time.Hour, RootTTL: 3650 * 24 * time.Hour},
	}
	ready := make(chan struct{})
	s, err := server.New(cfg, server.Options{Version: version, Logger: d.log, Watch: true, Part: d.layouts.part, Ready: func(string) { close(ready) }})
	if err != nil {
		return nil, err
	}
	if d.server, err = api.NewClient(api.Options{Address: d.serverAddress()}); err != nil {
		return nil, err
	}
	// It outlives ctx, for the others to leave in good order.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(running); err != nil {
			fail(fmt.Errorf("serving: %w", err))
		}
	}()
	stop = func() { cancel(); <-ended }
	select {
	case <-ready:
		return stop, nil
	case <-ctx.Done():
		stop()
		return nil, context.Cause(ctx)
	}
}

func (d *devSession) serverAddress() string {
	return "unix://" + filepath.Join(d.run, "server", "api.sock")
}

func (d *devSession) agentAddress() string {
	return "unix://" + filepath.Join(d.run, "agent", "api.sock")
}

// follow brings this machine in step with each generation, until ctx ends.
func (d *devSession) follow(ctx context.Context) error {
	var generation int
	refused := ""
	for {
		var st api.Status
		if err := d.server.Get(ctx, "/v1/status", &st); err != nil {
			return err
		}
		if why := refusal(st); why != refused {
			if refused = why; why != "" {
				d.printFindings(ctx)
				fmt.Fprintln(d.call.err, d.call.paint(color.FgYellow, fmt.Sprintf("Refused; generation %d goes on.", generation)))
			} else if st.Generation.Number == generation {
				fmt.Fprintf(d.call.err, "The files are again those of generation %d.\n", generation)
			}
		}
		d.setFrozen(st.Frozen)
		if n := st.Generation.Number; n != generation {
			layout, ok := d.layouts.get(st.Generation.Hash)
			if !ok {
				return fmt.Errorf("following the mesh's files: nobody made a layout of generation %d", n)
			}
			if err := d.arrange(ctx, layout); err != nil {
				return err
			}
			if err := d.tell(ctx, st, generation == 0); err != nil {
				return err
			}
			generation = n
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(devLook):
		}
	}
}

// refusal is why the files on disk are not what is in force; "": they are.
func refusal(st api.Status) string {
	for _, s := range st.Sources {
		if s.Name == "file" && s.State == "error" {
			return s.Error
		}
	}
	return ""
}

// arrange makes a layout the one that runs: the agent starts anew with it, while
// the Envoys of instances that stay go on, and get what is new from it.
func (d *devSession) arrange(ctx context.Context, next devLayout) error {
	before, after := d.layout.explicit(), next.explicit()
	d.layout = next
	if d.agent != nil && maps.EqualFunc(before, after, func(a, b agent.Explicit) bool {
		return slices.Equal(a.Upstreams, b.Upstreams) && slices.Equal(a.Accept, b.Accept)
	}) {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, stays := after[key]; stays {
			continue
		}
		d.envoys.stop(key)
		service, instance, _ := strings.Cut(key, "/")
		if _, err := d.agent.Leave(ctx, api.AgentLeave{Service: service, Workload: instance, Timeout: 2, Force: true}); err != nil {
			d.log.Warn("an instance that is gone stays a member", "instance", key, "error", err)
		}
	}
	d.stopAgent()
	if err := d.startAgent(ctx, after); err != nil {
		return err
	}
	for _, p := range next.places {
		if err := d.envoys.start(ctx, p.Service, p.Instance); err != nil {
			return err
		}
	}
	return nil
}

// startAgent runs the agent with what is explicit on this machine. A node that is
// new joins with a token of its own server; one that was here before joins again,
// which brings back who had left, and itself where its certificate has expired.
func (d *devSession) startAgent(ctx context.Context, explicit map[string]agent.Explicit) error {
	tokenFile := filepath.Join(d.run, "token")
	cfg := &config.Agent{
		Node: devNode, DataDir: filepath.Join(d.data, "agent"), RunDir: d.run, RetryJoin: []string{d.grpc}, Metrics: "none",
		Join:  config.Join{TokenFile: tokenFile},
		Envoy: config.Envoy{Path: d.envoy, Concurrency: 1, DrainDelay: 100 * time.Millisecond, DrainTimeout: time.Second},
	}
	var token api.Token
	if err := d.server.Post(ctx, "/v1/tokens", api.TokenRequest{Node: devNode, TTLSeconds: 60}, &token); err != nil {
		return fmt.Errorf("making a join token: %w", err)
	}
	ready := make(chan struct{})
	a, err := agent.New(cfg, agent.Options{Version: version, Logger: d.log.Named("agent"), Explicit: explicit, Ready: func() { close(ready) }})
	if err != nil {
		return err
	}
	again := a.Status().Joined
	if !again {
		if err := os.WriteFile(tokenFile, []byte(token.Token), 0o600); err != nil {
			return fmt.Errorf("keeping the join token: %w", err)
		}
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(running) }()
	d.agent, d.stop = a, func() {
		cancel()
		if err := <-ended; err != nil {
			d.log.Error("the agent ended", "error", err)
		}
	}
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		return fmt.Errorf("starting the agent: %w", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if again {
		if _, err := a.Join(ctx, api.AgentJoin{Token: token.Token, Servers: []string{d.grpc}}); err != nil {
			return fmt.Errorf("joining: %w", err)
		}
	}
	return nil
}

func (d *devSession) stopAgent() {
	if d.stop != nil {
		d.stop()
		d.agent, d.stop = nil, nil
	}
}

// settled waits until the mesh on this machine is what the layout says. What is
// missing after a while is returned, with reasons.
func (d *devSession) settled(ctx context.Context) (missing []string) {
	deadline := time.Now().Add(d.patience())
	for {
		if missing = d.missing(ctx); len(missing) == 0 || ctx.Err() != nil || time.Now().After(deadline) {
			return missing
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// missing says what is not yet so: each instance is in the mesh, its Envoy has
// what it should have and listens everywhere, and callers are told of it.
func (d *devSession) missing(ctx context.Context) (all []string) {
	in := map[string]api.AgentWorkload{}
	for _, w := range d.agent.Status().Workloads {
		in[w.Service+"/"+w.Workload] = w
	}
	for i := range d.layout.places {
		p := &d.layout.places[i]
		w := in[p.key()]
		switch {
		case w.State != "in":
			all = append(all, fmt.Sprintf("%s: %s", p.key(), orText(w.Reason, "not placed here yet")))
		case !w.Accepted || !w.Proxy.Ready || !w.Proxy.Connected:
			all = append(all, fmt.Sprintf("%s: %s", p.key(), orText(w.Proxy.Why, "its Envoy is starting")))
		default:
			all = append(all, deaf(p)...)
		}
	}
	if len(all) > 0 {
		return all
	}
	var st api.Status
	if err := d.server.Get(ctx, "/v1/status", &st); err != nil {
		return []string{err.Error()}
	}
	for _, h := range st.Held {
		if h.Node == devNode {
			all = append(all, fmt.Sprintf("%s/%s is kept from callers: %s", h.Service, h.Instance, h.Reason))
		}
	}
	if st.Proxies.Synced < len(d.layout.places) {
		all = append(all, fmt.Sprintf("%d of %d Envoys have accepted what they were sent; kerege proxies says more", st.Proxies.Synced, len(d.layout.places)))
	}
	return all
}

// deaf lists the ports where an instance's Envoy does not listen yet.
func deaf(p *devPlace) (all []string) {
	check := func(at, what string) {
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err != nil {
			all = append(all, fmt.Sprintf("%s: its Envoy does not listen at %s yet, %s", p.key(), at, what))
			return
		}
		c.Close()
	}
	for _, a := range p.Accept {
		check(a.Listen.String(), "where it is called")
	}
	for _, u := range p.Upstreams {
		check(fmt.Sprintf("127.0.0.1:%d", u.Local), "for calls to "+u.Service)
	}
	return all
}

func orText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
