package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/agent/identity"
	"github.com/kerege/kerege/agent/relay"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
)

// APISocket is where the agent of some settings answers.
func APISocket(cfg *config.Agent) string { return filepath.Join(cfg.RunDir, "agent", "api.sock") }

const maxBody = 1 << 20

// caller is the user at the other end of a connection of the API.
type caller struct{ uid, pid int }

type callerKey struct{}

// listenAPI serves the API until stop is called. The socket is open to every
// user of the host, and each request is held against who sent it: root and the
// agent's user may do everything, a proxy's user may fetch its own bootstrap,
// everybody may ask whether a proxy is ready.
func (a *Agent) listenAPI(ctx context.Context) (stop func(), err error) {
	path := APISocket(a.cfg)
	if err := openDirs(a.cfg.RunDir, filepath.Dir(path), filepath.Join(a.cfg.RunDir, "proxy")); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("opening the agent's API: another agent answers at %s; one node has one", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening the agent's API: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's API: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("opening the agent's API: %w", err)
	}
	server := &http.Server{Handler: a.routes(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			who := caller{uid: -1}
			if u, is := c.(*net.UnixConn); is {
				if uid, pid, err := relay.Peer(u); err == nil {
					who = caller{uid, pid}
				}
			}
			return context.WithValue(ctx, callerKey{}, who)
		}}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("the agent's API ended", "error", err)
		}
	})
	return func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(down) != nil {
			server.Close()
		}
		wg.Wait()
	}, nil
}

func (a *Agent) routes() http.Handler {
	m := http.NewServeMux()
	open := func(pattern string, h func(*http.Request) (any, error)) { m.Handle(pattern, a.answer(h, false)) }
	mine := func(pattern string, h func(*http.Request) (any, error)) { m.Handle(pattern, a.answer(h, true)) }
	open("GET /v1/ready", func(r *http.Request) (any, error) {
		return a.ready(r.FormValue("service"), r.FormValue("workload")), nil
	})
	open("GET /v1/proxies/{service}/bootstrap", a.serveBootstrap)
	open("POST /v1/proxies/{service}/claim", a.serveClaim)
	m.Handle("GET /metrics", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !trusted(r) {
			a.answer(nil, true).ServeHTTP(w, r) // says who may
			return
		}
		a.metrics.Handler().ServeHTTP(w, r)
	}))
	mine("GET /v1/status", func(*http.Request) (any, error) { return a.Status(), nil })
	mine("GET /v1/names", func(*http.Request) (any, error) { return a.Names(), nil })
	mine("POST /v1/join", func(r *http.Request) (any, error) {
		return read(r, func(ctx context.Context, in api.AgentJoin) (any, error) { return a.Join(ctx, in) })
	})
	mine("POST /v1/leave", func(r *http.Request) (any, error) {
		return read(r, func(ctx context.Context, in api.AgentLeave) (any, error) { return a.Leave(ctx, in) })
	})
	mine("GET /v1/capture/config", func(r *http.Request) (any, error) {
		c, held, err := a.captureConfig(r.FormValue("ssh"))
		return CaptureConfig{c, held}, err
	})
	mine("GET /v1/capture/plan", func(r *http.Request) (any, error) {
		accept, _ := strconv.Atoi(r.FormValue("accept")) // nothing that can be read is none
		return a.CapturePlan(r.Context(), r.FormValue("ssh"), accept)
	})
	mine("POST /v1/capture/apply", func(r *http.Request) (any, error) {
		return read(r, func(ctx context.Context, in api.CaptureApply) (any, error) { return a.CaptureApply(ctx, in) })
	})
	mine("POST /v1/capture/confirm", func(r *http.Request) (any, error) { return struct{}{}, a.CaptureConfirm(r.Context()) })
	mine("POST /v1/capture/remove", func(r *http.Request) (any, error) {
		return read(r, func(ctx context.Context, in api.CaptureRemove) (any, error) { return a.CaptureRemove(ctx, in) })
	})
	mine("POST /v1/capture/verify", func(r *http.Request) (any, error) { return a.CaptureVerify(r.Context()) })
	mine("GET /v1/capture/status", func(r *http.Request) (any, error) { return a.CaptureStatus(r.Context()) })
	return m
}

// CaptureConfig is what an apply would capture, and what it would leave out.
type CaptureConfig struct {
	capture.Config
	Held []capture.Stop `json:"held,omitempty"`
}

// CaptureRemoved answers a removal.
type CaptureRemoved struct {
	Changed      bool     `json:"changed"`
	Out          []string `json:"out"`          // workloads that were in the mesh, and are not any more
	Acknowledged bool     `json:"acknowledged"` // by a server: callers are not given them
}

// read decodes a request's body for h.
func read[T any](r *http.Request, h func(context.Context, T) (any, error)) (any, error) {
	var in T
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &in); err != nil {
			return nil, &api.Error{Status: http.StatusBadRequest, Title: "the request is no JSON that this agent understands", Detail: err.Error()}
		}
	}
	return h(r.Context(), in)
}

// answer runs a handler and writes what it returns. Privileged ones are for root
// and the agent's own user.
func (a *Agent) answer(h func(*http.Request) (any, error), privileged bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v any
		var err error
		if privileged && !trusted(r) {
			err = &api.Error{Status: http.StatusForbidden, Title: "this is for root and for the agent's own user", Detail: "try again with sudo"}
		} else {
			v, err = h(r)
		}
		w.Header().Set("content-type", "application/json")
		if err != nil {
			e := problem(err)
			w.WriteHeader(e.Status)
			v = e
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			a.log.Debug("answering a request", "path", r.URL.Path, "error", err)
		}
	})
}

func trusted(r *http.Request) bool {
	who, _ := r.Context().Value(callerKey{}).(caller)
	return who.uid == 0 || who.uid == os.Geteuid()
}

// problem is an error as the API says it.
func problem(err error) *api.Error {
	var e *api.Error
	var stops capture.Stops
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &stops):
		return &api.Error{Status: http.StatusConflict, Title: "nothing was captured", Detail: stops.Error()}
	case errors.Is(err, identity.ErrRefused):
		return &api.Error{Status: http.StatusForbidden, Title: err.Error()}
	case errors.Is(err, identity.ErrNotJoined):
		return &api.Error{Status: http.StatusConflict, Title: err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Status: http.StatusServiceUnavailable, Title: err.Error()}
	}
	return &api.Error{Status: http.StatusUnprocessableEntity, Title: err.Error()}
}

// serveBootstrap gives a proxy's user what its Envoy starts with.
func (a *Agent) serveBootstrap(req *http.Request) (any, error) {
	k := key(req.PathValue("service"), req.FormValue("workload"))
	a.mu.Lock()
	list := a.workloads
	a.mu.Unlock()
	for _, w := range list {
		if w.key() != k || w.dir == "" {
			continue
		}
		who, _ := req.Context().Value(callerKey{}).(caller)
		if uid, _ := a.owner(w); !trusted(req) && who.uid != uid {
			a.log.Warn("a user asked for a proxy that is not its own", "workload", k, "uid", who.uid)
			return nil, &api.Error{Status: http.StatusForbidden, Title: fmt.Sprintf("the proxy of %s runs as user %d, and you are %d", k, uid, who.uid),
				Detail: "run kerege envoy as that user; it is kerege-envoy-" + w.Service + " where that user exists, else the one that agent.hcl says in envoy { user }, else kerege-envoy"}
		}
		r := a.proxy(k)
		if r == nil || !r.at(a.standOf(w), w.held != "") {
			poke(a.poked) // its user is new: the socket comes in a moment
			break
		}
		text, err := a.bootstrap(w, limits(req))
		if err != nil {
			return nil, err
		}
		return api.Bootstrap{ID: w.id.String(), Dir: w.dir, Bootstrap: text, Path: a.cfg.Envoy.Path, Concurrency: a.cfg.Envoy.Concurrency,
			DrainDelaySeconds: a.cfg.Envoy.DrainDelay.Seconds(), DrainTimeoutSeconds: a.cfg.Envoy.DrainTimeout.Seconds()}, nil
	}
	why := a.ready(req.PathValue("service"), req.FormValue("workload")).Why
	if err := a.standing("relay"); err != nil {
		why = err.Error()
	}
	return nil, &api.Error{Status: http.StatusNotFound, Title: fmt.Sprintf("there is no proxy for %s on this node yet", k), Detail: why}
}

// limits are what the launcher, which runs where Envoy will, has found out.
func limits(r *http.Request) envoy.Limits {
	heap, _ := strconv.ParseUint(r.FormValue("heap"), 10, 64)
	connections, _ := strconv.ParseUint(r.FormValue("connections"), 10, 32)
	return envoy.Limits{Cgroup: r.FormValue("cgroup") == "1", Heap: heap, Connections: uint32(connections)}
}
