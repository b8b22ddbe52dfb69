package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry"
	"github.com/kerege/kerege/registry/file"
	"github.com/kerege/kerege/xds/serve"
)

// Options of a Server that are not settings.
type Options struct {
	Version string
	Logger  hclog.Logger
	Watch   bool // apply mesh files when they change (kerege dev)
	// Part, if not nil, makes of the mesh's files what they mean to this server,
	// instead of config.Mesh.Part (kerege dev). Called from several goroutines.
	Part func(*config.Mesh) mesh.Part
	// Ready is called once, when proxies are served; Status with every change of
	// the one line that systemd shows.
	Ready func(status string)
}

// Server is one control plane.
type Server struct {
	cfg  *config.Server
	opt  Options
	log  hclog.Logger
	now  func() time.Time
	name string
	host string // that agents dial

	files   *file.Source
	hub     *registry.Hub
	ca      *ca.Authority
	cert    *ca.ServerCert
	tokens  *ca.Tokens
	ads     *serve.Server
	planner *planner
	frost   *frost
	nodes   *nodeTable
	views   *viewTable
	secret  string // the operator's token

	signsFor string // trust domain of the CA of an earlier start, "" at the first

	evidence evidence // nil: no nomad block
	witness  witness  // likewise

	allocations *allocations // nil: no nomad block
	words       *lastWord    // the witness, where it is Nomad

	metrics    *metrics
	converging *convergence
	tally      tally
	said       said

	nodeStreams *nodeServer
	intakes     *intakes
	unkept      atomic.Bool // somebody who was sent away may be in the mesh
}

// New opens the server's state: its files, CA, tokens. Nothing listens yet. A
// damaged or foreign state is an error that says what to do; nothing is changed then.
func New(cfg *config.Server, opt Options) (*Server, error) {
	s := &Server{cfg: cfg, opt: opt, log: opt.Logger, now: time.Now, name: cfg.Name, host: cfg.Advertise}
	if s.opt.Part == nil {
		s.opt.Part = (*config.Mesh).Part
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if s.host == "" {
		s.host = firstAddress()
	}
	s.files = file.New(file.Options{
		Paths: cfg.MeshPaths, State: filepath.Join(cfg.DataDir, "mesh.json"), Watch: opt.Watch,
		Check: s.check, Part: s.opt.Part, Logger: s.log.Named("file"),
	})
	trustDomain, err := s.trustDomain()
	if err != nil {
		return nil, err
	}
	if err := s.openCA(trustDomain); err != nil {
		return nil, err
	}
	s.hub = registry.New(registry.Options{Logger: s.log.Named("registry"), DataDir: filepath.Join(cfg.DataDir, "registry"), Grace: cfg.FirstGrace})
	s.putTrust()
	s.nodes, s.views = newNodeTable(), newViewTable(s.servers())
	s.metrics = newMetrics(opt.Version, s.readGauges)
	s.ads = serve.New(serve.Config{Peer: s.peer, Identify: serve.IdentifyBy(s.identify), Opened: serve.OpenedBy(s.opened), Closed: s.closed, Metrics: s.metrics, Logger: s.log.Named("ads"), Now: s.now})
	s.converging = newConvergence(s.ads.State, s.metrics.convergence.Observe, s.now)
	s.planner = newPlanner(s.log.Named("plan"), s.ads, s.views.update)
	s.frost = openFrost(filepath.Join(cfg.DataDir, "frozen.json"))
	s.planner.pushed, s.planner.frost = s.converging.pushed, s.frost
	s.nodeStreams = &nodeServer{}
	s.sweep()
	return s, nil
}

// trustDomain reads the mesh's files for it; broken ones leave the kept
// generation in force, and without that the server does not start.
func (s *Server) trustDomain() (string, error) {
	s.signsFor = ca.SavedTrustDomain(s.caDir())
	diags, err := s.files.Load()
	_, m := s.files.Current()
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the mesh's files: %w", err)
	case m == nil && diags.HasErrors():
		var text strings.Builder
		if err := diags.WriteText(&text, false); err != nil {
			return "", fmt.Errorf("reading the mesh's files: %w", errors.Join(diags, err))
		}
		return "", fmt.Errorf("the mesh's files are refused, and no generation before them is kept:\n%s", strings.TrimSpace(text.String()))
	}
	domain := trustDomainOf(m)
	if s.signsFor == "" && (m == nil || m.Config == nil || m.Config.TrustDomain == "") {
		s.log.Warn("no mesh block says a trust domain: this server's new CA signs for the default, for the life of the mesh; "+
			"for another, stop, write mesh { trust_domain = … }, and remove the data directory before a host joins", "trust_domain", domain, "data_dir", s.cfg.DataDir)
	}
	return domain, nil
}

func (s *Server) caDir() string { return filepath.Join(s.cfg.DataDir, "ca") }

func (s *Server) openCA(trustDomain string) (err error) {
	s.ca, err = ca.Open(s.caDir(), ca.Options{
		TrustDomain: trustDomain, LeafTTL: s.cfg.CA.LeafTTL, IntermediateTTL: s.cfg.CA.IntermediateTTL,
		RootTTL: s.cfg.CA.RootTTL, Log: s.log.Named("ca"),
	})
	if err != nil {
		return err
	}
	if s.cert, err = s.ca.ServerCert(s.name, s.host, "localhost", "127.0.0.1", "::1"); err != nil {
		return errors.Join(err, s.ca.Close())
	}
	audit := s.log.Named("audit")
	s.tokens, err = ca.OpenTokens(filepath.Join(s.caDir(), "tokens.json"), ca.TokenOptions{
		CAHash: s.ca.Hash, Servers: s.servers(), Audit: func(event string, kv ...any) { audit.Info(event, kv...) },
		KeepAway: s.longestOpen(),
	})
	if err == nil {
		s.secret, err = operatorToken(filepath.Join(s.cfg.DataDir, "operator-token"))
	}
	if err != nil {
		return errors.Join(err, s.ca.Close())
	}
	return nil
}

// servers is what agents keep to find the control plane again.
func (s *Server) servers() []string {
	_, port, err := net.SplitHostPort(s.cfg.Addresses.GRPC)
	if err != nil {
		return nil
	}
	return []string{net.JoinHostPort(s.host, port)}
}

// Run serves until ctx ends, then takes everything down in reverse order.
func (s *Server) Run(ctx context.Context) error {
	defer s.ca.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	start := func(what string, run func(context.Context) error) {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	sources, err := s.sources()
	if err != nil {
		return err
	}
	start("registry", func(ctx context.Context) error { return s.hub.Run(ctx, sources...) })
	if s.allocations != nil {
		start("asking nomad of allocations", func(ctx context.Context) error { return s.allocations.run(ctx, s.hub.Ready()) })
	}
	start("planning", func(ctx context.Context) error { return s.planner.run(ctx, s.hub) })
	start("measuring", s.converging.run)
	start("keeping out who was sent away", s.keepOut)
	if s.words != nil {
		start("keeping nomad's words", s.words.run)
	}
	stopMetrics, err := s.listenMetrics(start)
	if err != nil {
		cancel(nil)
		return err
	}
	defer stopMetrics()
	stopAPI, err := s.listenAPI(start)
	if err != nil {
		cancel(nil)
		return err
	}
	defer stopAPI()
	// Proxies are answered when the mesh is known; operators see before that what is waited for.
	select {
	case <-s.hub.Ready():
	case <-ctx.Done():
		return cause(ctx)
	}
	select { // a node that is told nothing would take it for having nothing
	case <-s.planner.known:
	case <-ctx.Done():
		return cause(ctx)
	}
	if f := s.frost.cold(); f != nil {
		s.log.Warn("frozen since before this start: certificates are given, and proxies go on with what they have, until kerege thaw", "since", f.Since.Format(time.RFC3339), "reason", f.Reason)
	}
	stopGRPC, err := s.listenGRPC(start)
	if err != nil {
		cancel(nil)
		return err
	}
	defer stopGRPC()
	gen, _ := s.files.Current()
	s.log.Info("serving", "grpc", s.cfg.Addresses.GRPC, "trust_domain", s.ca.TrustDomain(), "generation", gen.Counter, "services", len(s.hub.Snapshot().Services()))
	if s.opt.Ready != nil {
		s.opt.Ready(fmt.Sprintf("generation %d, %d services", gen.Counter, len(s.hub.Snapshot().Services())))
	}
	<-ctx.Done()
	return cause(ctx)
}

// cause is why the server ends: nil when it was asked to.
func cause(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// listenGRPC opens the port of nodes.
func (s *Server) listenGRPC(start func(string, func(context.Context) error)) (stop func(), err error) {
	l, err := net.Listen("tcp", s.cfg.Addresses.GRPC)
	if err != nil {
		return nil, fmt.Errorf("listening for nodes: %w", err)
	}
	g := grpc.NewServer(append(serve.ServerOptions(), s.nodeOptions()...)...)
	s.ads.Register(g)
	s.registerNodes(g)
	start("serving nodes", func(context.Context) error { return g.Serve(l) })
	return func() {
		s.ads.Close()
		g.Stop()
		s.ads.Wait()
		s.nodeStreams.wait()
	}, nil
}

// firstAddress is the host's first address that is not loopback.
func firstAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
