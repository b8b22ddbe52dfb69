package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

// maxBody bounds one answer of Consul, in bytes.
const maxBody = 32 << 20

var errBody = fmt.Errorf("the answer has more than %d MiB", maxBody>>20)

// Secret is a token's text; printing one shows nothing.
type Secret interface{ Reveal() string }

// transport adds the token of the moment, counts, and bounds what is read.
type transport struct {
	base        http.RoundTripper
	token       func() (string, error)
	multiplexed bool
	asked       atomic.Int64
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.asked.Add(1)
	req = req.Clone(req.Context())
	req.Header.Del("X-Consul-Token")
	token, err := t.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: maxBody}
	return resp, nil
}

// bounded is a body that fails beyond its bound.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if n, err := b.ReadCloser.Read(p[:min(1, len(p))]); n == 0 {
			return 0, err
		}
		return 0, errBody
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// newClient builds the client from the options, then CONSUL_* in the environment.
func newClient(opt Options) (*api.Client, *transport, error) {
	cfg := api.DefaultConfig() // reads the environment
	fileEnv, tokenEnv := cfg.TokenFile, cfg.Token
	cfg.Token, cfg.TokenFile = "", ""
	for _, o := range []struct {
		to   *string
		from string
	}{
		{&cfg.Address, opt.Address}, {&cfg.Scheme, opt.Scheme}, {&cfg.Datacenter, opt.Datacenter},
		{&cfg.Namespace, opt.Namespace}, {&cfg.Partition, opt.Partition},
		{&cfg.TLSConfig.CAFile, opt.CAFile}, {&cfg.TLSConfig.CAPath, opt.CAPath}, {&cfg.TLSConfig.CertFile, opt.CertFile},
		{&cfg.TLSConfig.KeyFile, opt.KeyFile}, {&cfg.TLSConfig.Address, opt.TLSServerName},
	} {
		if o.from != "" {
			*o.to = o.from
		}
	}
	cfg.TLSConfig.InsecureSkipVerify = cfg.TLSConfig.InsecureSkipVerify || opt.SkipVerify
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: freshAtOnce, IdleConnTimeout: 90 * time.Second,
	}
	if path, ok := strings.CutPrefix(cfg.Address, "unix://"); ok {
		base.Proxy = nil
		base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
		cfg.Address = "localhost" // the client would replace our transport
	}
	httpClient, err := api.NewHttpClient(base, cfg.TLSConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("configuring TLS to consul: %w", err)
	}
	tr := &transport{base: base, token: tokens(opt, fileEnv, tokenEnv)}
	httpClient.Transport = tr
	cfg.HttpClient = httpClient
	tr.multiplexed = cfg.Scheme == "https" || strings.HasPrefix(cfg.Address, "https://")
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("configuring the client of consul: %w", err)
	}
	return client, tr, nil
}

// tokens gives the token of the moment: of the file named in the options, of the
// options, of the file named in the environment, of the environment. A file is
// read again when it has changed; while it cannot be read its last text counts. One
// that never was is an error: without its token a request is anonymous, and Consul
// answers it with empty lists.
func tokens(opt Options, fileEnv, tokenEnv string) func() (string, error) {
	path, text := opt.TokenFile, ""
	if path == "" && opt.Token != nil {
		text = opt.Token.Reveal()
	}
	if path == "" && text == "" {
		path, text = fileEnv, tokenEnv
	}
	if path == "" {
		return func() (string, error) { return text, nil }
	}
	var mu sync.Mutex
	var size int64 = -1
	var changed time.Time
	return func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(path)
		if err == nil && info.Size() == size && info.ModTime().Equal(changed) {
			return text, nil
		}
		var read []byte
		if err == nil {
			read, err = os.ReadFile(path)
		}
		if err == nil && len(bytes.TrimSpace(read)) == 0 {
			err = fmt.Errorf("%s is empty", path)
		}
		switch {
		case err == nil:
			text, size, changed = string(bytes.TrimSpace(read)), info.Size(), info.ModTime()
		case text == "" && errors.Is(err, fs.ErrPermission):
			return "", fmt.Errorf("reading the token: %w (systemd hands a file to a server that cannot read it: LoadCredential=, as in kerege-server-consul.conf)", err)
		case text == "":
			return "", fmt.Errorf("reading the token: %w", err)
		}
		return text, nil
	}
}

// Consul's own default of limits.http_max_conns_per_client, and what is left of
// it to others at the same address.
const (
	connsDefault = 200
	connsSpare   = 16
)

// budget asks the agent how many connections it allows a client, and bounds
// watches and connections by it. A connection too many is not refused in order:
// it is cut, whatever was asked on it. HTTP/2, which TLS brings, needs few.
func (s *Source) budget(ctx context.Context) {
	if s.tr.multiplexed {
		return
	}
	allowed := connsDefault
	ctx, stop := context.WithTimeout(ctx, heartbeat)
	defer stop()
	var self struct {
		DebugConfig struct{ HTTPMaxConnsPerClient *int }
	}
	_, err := s.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	if said := self.DebugConfig.HTTPMaxConnsPerClient; err == nil && said != nil {
		allowed = *said
	}
	if allowed <= 0 {
		return // no limit
	}
	watches := max(allowed-freshAtOnce-connsSpare, allowed/2, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if watches < s.opt.MaxWatches {
		s.max = watches
	}
	s.log.Debug("connections to consul", "allowed", allowed, "watches", s.max, "limit_known", err == nil)
}

// statusOf is the HTTP status of a refusal; 0 when Consul did not answer.
func statusOf(err error) int {
	var s api.StatusError
	if errors.As(err, &s) {
		return s.Code
	}
	return 0
}
