package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/durable"
	"github.com/kerege/kerege/mesh"
)

// routes is the whole HTTP API.
func (s *Server) routes() map[string]handler {
	return map[string]handler{
		"GET /v1/status":     func(*http.Request) (any, error) { return s.status(), nil },
		"GET /v1/services":   func(*http.Request) (any, error) { return servicesOf(s.hub.Snapshot(), s.hosts()), nil },
		"GET /v1/intentions": s.intentions,
		"GET /v1/proxies":    func(*http.Request) (any, error) { return s.proxies(), nil },
		"GET /v1/ca/bundle": func(*http.Request) (any, error) {
			return map[string]string{"bundle": string(s.ca.Bundle())}, nil
		},
		"POST /v1/explain": func(r *http.Request) (any, error) {
			var req api.ExplainRequest
			if err := read(r, &req); err != nil {
				return nil, err
			}
			return s.explain(req)
		},
		"POST /v1/plan":       s.planAsked,
		"POST /v1/apply":      func(r *http.Request) (any, error) { return s.apply(r.Context()) },
		"GET /v1/generations": func(*http.Request) (any, error) { return s.generations(), nil },
		"POST /v1/rollback":   s.rollback,
		"GET /v1/freeze":      func(*http.Request) (any, error) { return s.freezing(), nil },
		"POST /v1/freeze":     s.freeze,
		"POST /v1/thaw":       s.unfreeze,
		"POST /v1/tokens":     s.createToken,

		"POST /v1/nodes/{node}/evict": s.evict,
		"POST /v1/nodes/{node}/ban":   s.ban,
		"POST /v1/nodes/{node}/unban": s.unban,

		"POST /v1/guard/{service}": func(r *http.Request) (any, error) {
			if !s.hub.Confirm(r.PathValue("service")) {
				return nil, fail(http.StatusNotFound, "nothing is held back of "+mesh.Quote(r.PathValue("service")), "kerege status lists what is.")
			}
			return struct{}{}, nil
		},
	}
}

func (s *Server) createToken(r *http.Request) (any, error) {
	var req api.TokenRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	token, expires, err := s.tokens.Create(req.Node, ca.RoleNode, time.Duration(req.TTLSeconds*float64(time.Second)))
	if err != nil {
		return nil, fail(http.StatusBadRequest, err.Error(), "")
	}
	return api.Token{Token: token.Text(), Node: req.Node, Expires: expires}, nil
}

func (s *Server) proxies() []api.Proxy {
	told, _ := s.inForce(false) // the lines that what they have came from
	return proxiesOf(s.now(), told, s.ads.Status(), s.planner.problems)
}

// status is GET /v1/status.
func (s *Server) status() api.Status {
	snap, hosts := s.hub.Snapshot(), s.hosts()
	c := snap.Config()
	gen, m := s.files.Current()
	cs := s.ca.Status()
	st := api.Status{
		Server: s.name, Version: s.opt.Version, TrustDomain: s.ca.TrustDomain(), MTLS: string(c.MTLS),
		DefaultIntention: string(c.DefaultIntention), Outbound: string(c.Outbound),
		Generation: api.Generation{Number: int(gen.Counter), Hash: gen.Hash, Applied: s.files.Applied(), Of: int(s.files.RolledBack())},
		Differs:    listed(s.files.Differs()), Sources: s.sourceStatus(), Nodes: hosts, Services: len(snap.Services()),
		Proxies: countsOf(s.proxies()), Held: heldOf(snap, hosts), Guards: s.guards(), Conflicts: conflictsOf(snap),
		CA: api.CA{RootExpires: cs.RootExpires, IntermediateExpires: cs.IntermediateExpires, BundleHash: cs.BundleHash, LeafTTLSeconds: cs.LeafTTL.Seconds()},
	}
	_, st.Frozen = s.inForce(false)
	st.Warnings = s.standing(snap)
	if m != nil {
		st.Generation.Files = len(m.Sources)
		st.TrustDomainDefault = m.Config == nil || m.Config.TrustDomain == ""
	}
	if waiting := s.hub.Waiting(); waiting != "" {
		st.WaitingFor = []string{waiting}
	}
	st.Ready = len(st.WaitingFor) == 0
	return st
}

// listed is a list that is [] in JSON when it is empty.
func listed(all []string) []string {
	if all == nil {
		return []string{}
	}
	return all
}

func (s *Server) sourceStatus() []api.Source {
	all := []api.Source{}
	for _, src := range s.hub.Status() {
		all = append(all, api.Source{Name: src.Name, State: string(src.State), AgeSeconds: src.Age.Seconds(), Error: src.Err,
			Services: src.Services, Watches: src.Watches, RequestsPS: src.RequestsPerSecond})
	}
	return all
}

func (s *Server) guards() []api.Guard {
	all := []api.Guard{}
	for _, h := range s.hub.Guard() {
		all = append(all, api.Guard{Service: h.Service, Source: h.Source, Before: h.Of, After: h.Of - h.Removed, Since: h.Since, Until: h.Until})
	}
	return all
}

// listenAPI opens the local socket, and the HTTPS port where there is one.
func (s *Server) listenAPI(start func(string, func(context.Context) error)) (stop func(), err error) {
	mux := http.NewServeMux()
	for pattern, h := range s.routes() {
		mux.Handle(pattern, serveJSON(s.log.Named("api"), h))
	}
	mux.Handle("GET /metrics", s.metrics.Handler())
	path := filepath.Join(s.cfg.RunDir, "server", "api.sock")
	local, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	servers := []*http.Server{{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}}
	socket := servers[0]
	start("serving the local API", func(context.Context) error { return served(socket.Serve(local)) })
	if s.cfg.Addresses.HTTPS != "none" {
		public := http.NewServeMux()
		public.HandleFunc("GET /healthz", s.healthz)
		public.Handle("/", requireToken(func() string { return s.secret }, mux))
		tlsConfig, err := s.httpsConfig()
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", s.cfg.Addresses.HTTPS)
		}
		if err != nil {
			socket.Close()
			return nil, fmt.Errorf("listening for the API: %w", err)
		}
		https := &http.Server{Handler: public, TLSConfig: tlsConfig, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: nil}
		servers = append(servers, https)
		start("serving the API", func(context.Context) error { return served(https.ServeTLS(l, "", "")) })
	}
	return func() {
		for _, srv := range servers {
			srv.Close()
		}
	}, nil
}

// healthz is the one thing that anybody may ask: is this server ready.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.hub.Waiting() != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "waiting")
		return
	}
	fmt.Fprintln(w, "ok")
}

func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// listenUnix opens a socket that only the server's own user and root may use.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the API's folder: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old API socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for the local API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("closing the API socket to others: %w", err)
	}
	return l, nil
}

// operatorToken reads the operator's token, or makes one at the first start. One
// that others may read, or that is too short to be one, stops the start.
func operatorToken(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newOperatorToken(path)
	}
	if err != nil {
		return "", fmt.Errorf("reading the operator's token: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("reading the operator's token: %s has mode %04o, so others may have read it; chmod 600 it, or remove it to get a new one", path, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the operator's token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < 32 {
		return "", fmt.Errorf("reading the operator's token: %s holds %d characters, and a token has 32 at least; remove it to get a new one", path, len(token))
	}
	return token, nil
}

// newOperatorToken is on disk whole or not at all.
func newOperatorToken(path string) (string, error) {
	b := make([]byte, 32)
	rand.Read(b)
	token := "ko_" + hex.EncodeToString(b)
	if err := durable.WriteFile(path, []byte(token+"\n")); err != nil {
		return "", fmt.Errorf("writing the operator's token: %w", err)
	}
	return token, nil
}
