package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Admin speaks to an Envoy's admin socket.
type Admin struct {
	socket string
	client *http.Client
}

// maxAnswer bounds what is read of one answer; a thousand services' stats are 30 MiB.
const maxAnswer = 128 << 20

// NewAdmin returns a client for the socket at path. It keeps no connection open.
func NewAdmin(path string) *Admin {
	return &Admin{socket: path, client: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
		},
	}}
}

// Get reads an admin page. An answer other than 200 is an error with its first line.
func (a *Admin) Get(ctx context.Context, path string) ([]byte, error) {
	return a.do(ctx, http.MethodGet, path)
}

// Post asks Envoy to do something.
func (a *Admin) Post(ctx context.Context, path string) ([]byte, error) {
	return a.do(ctx, http.MethodPost, path)
}

func (a *Admin) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking Envoy's admin socket: %w", err)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking Envoy's admin socket %s: %w", a.socket, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading %s from Envoy's admin socket: %w", path, err)
	}
	if res.StatusCode != http.StatusOK {
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		return nil, fmt.Errorf("asking Envoy's admin socket for %s: %s: %.200q", path, res.Status, line)
	}
	return body, nil
}

// Stats returns counters and gauges whose names match an expression (RE2), by name.
func (a *Admin) Stats(ctx context.Context, expression string) (map[string]uint64, error) {
	body, err := a.Get(ctx, "/stats?format=json&type=All&filter="+url.QueryEscape(expression))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("reading Envoy's stats: %w", err)
	}
	out := make(map[string]uint64, len(answer.Stats))
	for _, s := range answer.Stats {
		var n uint64
		if s.Name != "" && json.Unmarshal(s.Value, &n) == nil { // texts and histograms are not for us
			out[s.Name] = n
		}
	}
	return out, nil
}

// Ready says whether Envoy serves: it is live, its workers run, it has listeners
// and none of them, nor any cluster, still waits for something. Otherwise the
// error says what is missing.
func (a *Admin) Ready(ctx context.Context) error {
	if _, err := a.Get(ctx, "/ready"); err != nil {
		return err
	}
	s, err := a.Stats(ctx, `^(listener_manager\.(total_listeners_(warming|active)|workers_started)|cluster_manager\.warming_clusters)$`)
	if err != nil {
		return err
	}
	switch {
	case s["listener_manager.workers_started"] == 0:
		return fmt.Errorf("waiting for Envoy's workers")
	case s["listener_manager.total_listeners_warming"] > 0:
		return fmt.Errorf("waiting for %d of Envoy's listeners", s["listener_manager.total_listeners_warming"])
	case s["cluster_manager.warming_clusters"] > 0:
		return fmt.Errorf("waiting for %d of Envoy's clusters", s["cluster_manager.warming_clusters"])
	case s["listener_manager.total_listeners_active"] == 0:
		return fmt.Errorf("waiting for Envoy's first listener")
	}
	return nil
}

// Drain tells Envoy to ask its clients, at their next answer, to connect elsewhere.
// Calls in flight go on; listeners stay open for who has not heard yet.
func (a *Admin) Drain(ctx context.Context) error {
	_, err := a.Post(ctx, "/drain_listeners?graceful&skip_exit")
	return err
}

// InFlight counts the calls and the other connections that Envoy still carries.
func (a *Admin) InFlight(ctx context.Context) (uint64, error) {
	s, err := a.Stats(ctx, `^(http\..*\.downstream_rq_active|tcp\..*\.downstream_cx_active|cluster\..*\.upstream_rq_active)$`)
	if err != nil {
		return 0, err
	}
	var n uint64
	for name, v := range s {
		if !strings.HasPrefix(name, "http.admin.") && !strings.HasPrefix(name, "cluster."+AgentCluster+".") {
			n += v
		}
	}
	return n, nil
}
