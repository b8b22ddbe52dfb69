package town

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// Report is what the program's load prints.
type Report struct {
	Calls    int             `json:"calls"`
	Failed   int             `json:"failed"`
	ByCode   map[string]int  `json:"by_code"`
	ByServer map[string]int  `json:"by_version"`
	Errors   map[string]int  `json:"errors"`
	First    string          `json:"first_failure"`
	Last     string          `json:"last_failure"`
	Seen     map[string]Span `json:"seen"`
	P50      string          `json:"p50"`
	P99      string          `json:"p99"`
	Max      string          `json:"max"`
}

// Span is when the first and the last calls that a version answered were begun.
type Span struct{ First, Last time.Time }

// BringIn takes a host from nothing into the mesh: program, agent, token, join,
// Envoy, capture.
func (h *Host) BringIn(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"program", h.StartProgram}, {"agent", h.StartAgent}, {"join", h.Join}, {"envoy", h.StartEnvoy}, {"proxy", h.WaitReady}, {"capture", h.Capture},
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("bringing %s in: %s: %w", h.Name, s.name, err)
		}
	}
	return nil
}

// BringInRunning is BringIn of a host whose program runs already.
func (h *Host) BringInRunning(ctx context.Context) error {
	for _, step := range []func(context.Context) error{h.StartAgent, h.Join, h.StartEnvoy, h.WaitReady, h.Capture} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("bringing %s in: %w", h.Name, err)
		}
	}
	return nil
}

// Env is what tells a command where the host's agent is.
func (h *Host) Env() []string { return h.env() }

// StartProgram starts the ordinary program: on :8080, unless Program says otherwise.
func (h *Host) StartProgram(context.Context) (err error) {
	args := h.Program
	if args == nil {
		args = []string{"serve", "-name", h.Service, "-version", h.Version, "-listen", ":8080"}
	}
	h.Prog, err = h.Start(lab.Spec{Name: "program", UID: UIDApp, Args: append([]string{h.town.App}, args...)})
	return err
}

// StartAgent writes agent.hcl and starts the agent.
func (h *Host) StartAgent(context.Context) (err error) {
	file := filepath.Join(h.Dir, "agent.hcl")
	if err := os.WriteFile(file, []byte(h.agentSettings()), 0o644); err != nil {
		return fmt.Errorf("writing agent.hcl: %w", err)
	}
	h.Agent, err = h.Start(lab.Spec{Name: "agent", Args: []string{h.town.Kerege, "agent", "-config", file}})
	return err
}

// Join makes a token at the server and shows it to the host's agent.
func (h *Host) Join(ctx context.Context) error {
	token, code := h.town.Ask(ctx, "token", "create", "-node", h.Name)
	if code != 0 {
		return fmt.Errorf("kerege token create: %s", token)
	}
	return lab.Until(ctx, 10*time.Second, "the agent to answer", func() error {
		out, code := h.Combined(ctx, lab.Spec{Env: h.env(), In: strings.NewReader(token), Args: []string{h.town.Kerege, "join", "-"}})
		if code != 0 {
			return fmt.Errorf("kerege join: exit %d: %s\nagent: %s", code, out, h.Agent.Tail(1000))
		}
		return nil
	})
}

// StartEnvoy starts the proxy under its own user.
func (h *Host) StartEnvoy(context.Context) (err error) {
	h.Envoy, err = h.Start(lab.Spec{Name: "envoy", UID: UIDEnvoy, Env: h.env(),
		Args: []string{h.town.Kerege, "envoy", "-service", h.Service, "-envoy", h.town.EnvoyPath}})
	return err
}

// WaitReady waits until the proxy's listeners are warm.
func (h *Host) WaitReady(ctx context.Context) error {
	if out, code := h.Kerege(ctx, "wait", "-service", h.Service, "-timeout", "20s"); code != 0 {
		return fmt.Errorf("kerege wait: exit %d: %s\nenvoy: %s\nagent: %s", code, out, h.Envoy.Tail(1500), h.Agent.Tail(1500))
	}
	return nil
}

// Capture applies and confirms the capture, and waits until the server has the
// host's service durably in the mesh.
func (h *Host) Capture(ctx context.Context) error {
	for _, verb := range []string{"apply", "confirm"} {
		if out, code := h.Kerege(ctx, "capture", verb); code != 0 {
			return fmt.Errorf("kerege capture %s: exit %d: %s\nagent: %s", verb, code, out, h.Agent.Tail(1500))
		}
	}
	return lab.Until(ctx, 10*time.Second, h.Name+" to be in the mesh", func() error {
		out, _ := h.town.Ask(ctx, "status", "-json")
		var st struct {
			Nodes []struct {
				Name     string
				Services []string
			}
		}
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for _, n := range st.Nodes {
			if n.Name == h.Name && len(n.Services) > 0 {
				return nil
			}
		}
		return fmt.Errorf("it is not: %s", out)
	})
}

// Kerege runs a command against the host's agent.
func (h *Host) Kerege(ctx context.Context, args ...string) (string, int) {
	return h.Combined(ctx, lab.Spec{Env: h.env(), Args: append([]string{h.town.Kerege}, args...)})
}

func (h *Host) env() []string {
	return []string{"KEREGE_AGENT_ADDR=unix://" + h.Dir + "/run/agent/api.sock"}
}

// Load calls as the host's program would, and counts.
func (h *Host) Load(ctx context.Context, url string, rate int, d time.Duration, more ...string) (Report, error) {
	var r Report
	args := append([]string{h.town.App, "load", "-url", url, "-rate", fmt.Sprint(rate), "-for", d.String()}, more...)
	out, err := h.Output(ctx, lab.Spec{UID: UIDApp, Args: args})
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// LoadDuring runs load, and meanwhile does something.
func (h *Host) LoadDuring(ctx context.Context, url string, rate int, d time.Duration, do func() error, more ...string) (Report, error) {
	type result struct {
		r   Report
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := h.Load(ctx, url, rate, d, more...)
		done <- result{r, err}
	}()
	err := do()
	got := <-done
	if err != nil {
		return got.r, err
	}
	return got.r, got.err
}

// Get makes one call as the host's program would: "<status> new <quoted body>".
func (h *Host) Get(ctx context.Context, url string) (string, error) {
	out, err := h.Output(ctx, lab.Spec{UID: UIDApp, In: strings.NewReader("\n"), Args: []string{h.town.App, "hold", "-url", url}})
	return strings.TrimSpace(out), err
}

// WaitFor calls until the status is as wanted.
func (h *Host) WaitFor(ctx context.Context, url string, status int, limit time.Duration) error {
	return lab.Until(ctx, limit, fmt.Sprintf("%s to answer %d to %s", url, status, h.Name), func() error {
		got, err := h.Get(ctx, url)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(got, fmt.Sprint(status, " ")) {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
}
