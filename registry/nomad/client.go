package nomad

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
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

	"github.com/hashicorp/nomad/api"
)

// maxBody bounds one answer of Nomad, in bytes.
const maxBody = 32 << 20

const eventPath = "/v1/event/stream"

var errBody = fmt.Errorf("the answer has more than %d MiB", maxBody>>20)

// Secret is a token's text; printing one shows nothing.
type Secret interface{ Reveal() string }

// transport adds the token of the moment, counts, and bounds what is read.
type transport struct {
	base  http.RoundTripper
	token func() (string, error)
	asked atomic.Int64
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.asked.Add(1)
	req = req.Clone(req.Context())
	req.Header.Del("Accept-Encoding") // the transport's own unzips, so the bound is of what comes out
	req.Header.Del("X-Nomad-Token")
	token, err := t.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Nomad-Token", token)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if req.URL.Path != eventPath { // an endless answer bounds each of its lines
		resp.Body = &bounded{ReadCloser: resp.Body, left: maxBody}
	}
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

// newClient builds the client from the options, then NOMAD_* in the environment.
func newClient(opt Options) (*api.Client, *transport, error) {
	cfg := api.DefaultConfig() // reads the environment
	env := cfg.SecretID
	cfg.SecretID, cfg.Namespace = "", ""
	for _, o := range []struct {
		to   *string
		from string
	}{
		{&cfg.Address, opt.Address}, {&cfg.Region, opt.Region},
		{&cfg.TLSConfig.CACert, opt.CAFile}, {&cfg.TLSConfig.CAPath, opt.CAPath}, {&cfg.TLSConfig.ClientCert, opt.CertFile},
		{&cfg.TLSConfig.ClientKey, opt.KeyFile}, {&cfg.TLSConfig.TLSServerName, opt.TLSServerName},
	} {
		*o.to = cmp.Or(o.from, *o.to)
	}
	cfg.TLSConfig.Insecure = cfg.TLSConfig.Insecure || opt.SkipVerify
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: inFlight, IdleConnTimeout: 90 * time.Second,
	}
	path, unix := strings.CutPrefix(cfg.Address, "unix://")
	switch {
	case unix:
		base.Proxy = nil
		base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
		cfg.Address = "http://localhost"
	case !strings.Contains(cfg.Address, "://") && (cfg.TLSConfig.CACert != "" || cfg.TLSConfig.CAPath != "" || cfg.TLSConfig.ClientCert != ""):
		cfg.Address = "https://" + cfg.Address
	case !strings.Contains(cfg.Address, "://"):
		cfg.Address = "http://" + cfg.Address
	}
	cfg.HttpClient = &http.Client{Transport: base}
	if err := api.ConfigureTLS(cfg.HttpClient, cfg.TLSConfig); err != nil {
		return nil, nil, fmt.Errorf("configuring TLS to nomad: %w", err)
	}
	tr := &transport{base: base, token: tokens(opt, env)}
	cfg.HttpClient.Transport = tr
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("configuring the client of nomad: %w", err)
	}
	return client, tr, nil
}

// tokens gives the token of the moment: of the file in the options, of the
// options, of the environment. A file is read again when it has changed; while
// it cannot be read its last text counts. One that never was is an error: without
// its token a request is anonymous, and may be answered with nothing.
func tokens(opt Options, env string) func() (string, error) {
	text := env
	if opt.Token != nil && opt.Token.Reveal() != "" {
		text = opt.Token.Reveal()
	}
	if opt.TokenFile == "" {
		return func() (string, error) { return text, nil }
	}
	text = ""
	var mu sync.Mutex
	var size int64 = -1
	var changed time.Time
	return func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(opt.TokenFile)
		if err == nil && info.Size() == size && info.ModTime().Equal(changed) {
			return text, nil
		}
		var read []byte
		if err == nil {
			read, err = os.ReadFile(opt.TokenFile)
		}
		if err == nil && len(bytes.TrimSpace(read)) == 0 {
			err = fmt.Errorf("%s is empty", opt.TokenFile)
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

// statusOf is the HTTP status of a refusal; 0 when Nomad did not answer.
func statusOf(err error) int {
	var e api.UnexpectedResponseError
	if errors.As(err, &e) && e.HasStatusCode() {
		return e.StatusCode()
	}
	return 0
}
