package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// consul is a real Consul: the registry whose catalog is written, and, as a
// peer, the control plane that serves its proxies by its own xDS.
type consul struct {
	cmd        *exec.Cmd
	dir        string
	http, grpc string
	client     *http.Client
}

// startConsul starts one server that is leader of itself. limits off lets its
// xDS send as fast as it can; the default is 250 updates a second.
func startConsul(binary string, limitsOff bool) (*consul, error) {
	dir, err := os.MkdirTemp("", "krbench-")
	if err != nil {
		return nil, fmt.Errorf("starting consul: %w", err)
	}
	ports, err := freePorts(7)
	if err != nil {
		return nil, fmt.Errorf("starting consul: %w", err)
	}
	c := &consul{dir: dir, http: fmt.Sprintf("127.0.0.1:%d", ports[0]), grpc: fmt.Sprintf("127.0.0.1:%d", ports[1]),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	conf := map[string]any{
		"node_name": "bench", "server": true, "bootstrap": true, "data_dir": filepath.Join(dir, "data"), "log_level": "warn",
		"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "connect": map[string]any{"enabled": true},
		"ports":       map[string]int{"http": ports[0], "grpc": ports[1], "server": ports[2], "serf_lan": ports[3], "serf_wan": ports[4], "dns": -1, "grpc_tls": -1},
		"performance": map[string]any{"raft_multiplier": 1},
		"limits":      map[string]any{"http_max_conns_per_client": 5000},
	}
	if limitsOff {
		conf["xds"] = map[string]any{"update_max_per_second": 1e9}
	}
	b, err := json.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("starting consul: %w", err)
	}
	file := filepath.Join(dir, "consul.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, fmt.Errorf("starting consul: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("starting consul: %w", err)
	}
	defer log.Close()
	c.cmd = exec.Command(binary, "agent", "-config-file", file)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting consul: %w", err)
	}
	for range 600 {
		if err = c.call("GET", "/v1/health/node/bench", nil, nil); err == nil {
			var leader string
			if err = c.call("GET", "/v1/status/leader", nil, &leader); err == nil && leader != "" {
				return c, nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.stop()
	return nil, fmt.Errorf("waiting for consul to lead: %w", err)
}

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

func (c *consul) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	os.RemoveAll(c.dir)
}

func (c *consul) call(method, path string, body, out any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("asking consul for %s: %w", path, err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://"+c.http+path, r)
	if err != nil {
		return fmt.Errorf("asking consul for %s: %w", path, err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("asking consul for %s: %w", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("asking consul for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking consul for %s: %s: %s", path, resp.Status, b)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			return fmt.Errorf("asking consul for %s: %w", path, err)
		}
	}
	return nil
}

// catalog is one instance as a catalog entry. native makes it an endpoint of
// Consul's own mesh.
func catalog(k, n int, native bool) map[string]any {
	ip, port := instance(k, n)
	svc := map[string]any{"ID": fmt.Sprintf("%s-%d", serviceName(k), n), "Service": serviceName(k), "Address": ip, "Port": port,
		"Meta": map[string]string{"kerege-protocol": "http"}}
	if native {
		svc["Connect"] = map[string]any{"Native": true}
	}
	return map[string]any{"Node": serverNode(n), "Address": fmt.Sprintf("10.250.0.%d", 1+n%2), "Service": svc, "SkipNodeUpdate": n > 1}
}

func (c *consul) register(k, n int, native bool) error {
	return c.call("PUT", "/v1/catalog/register", catalog(k, n, native), nil)
}

func (c *consul) deregister(k, n int) error {
	return c.call("PUT", "/v1/catalog/deregister", map[string]any{"Node": serverNode(n), "ServiceID": fmt.Sprintf("%s-%d", serviceName(k), n)}, nil)
}

// fill writes the shape's services and, for the peer, its proxies.
func (c *consul) fill(s shape, native bool) error {
	for n := range 2 {
		for k := range s.S {
			if err := c.register(k, n, native); err != nil {
				return err
			}
		}
	}
	if !native {
		return nil
	}
	// Intentions that allow all, as ours do for these callers.
	if err := c.call("PUT", "/v1/config", map[string]any{"Kind": "service-intentions", "Name": "*",
		"Sources": []map[string]any{{"Name": "*", "Action": "allow"}}}, nil); err != nil {
		return err
	}
	errs := make(chan error, s.P)
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i := range s.P {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var ups []map[string]any
			for j, k := range s.upstreams(i) {
				ups = append(ups, map[string]any{"DestinationName": serviceName(k), "LocalBindPort": 10000 + j})
			}
			errs <- c.call("PUT", "/v1/agent/service/register", map[string]any{
				"Kind": "connect-proxy", "ID": proxyName(i) + "-proxy", "Name": proxyName(i) + "-proxy", "Port": 21000,
				"Address": fmt.Sprintf("11.0.%d.%d", i/250, 1+i%250),
				"Proxy":   map[string]any{"DestinationServiceName": proxyName(i), "Upstreams": ups},
			}, nil)
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
