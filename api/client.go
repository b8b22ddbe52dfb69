package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Client speaks to the HTTP API of a server or an agent.
type Client struct {
	address string // as the user wrote it, for messages
	base    string
	token   string // secret
	http    *http.Client
}

// Options say where a server or agent is and how to be let in.
type Options struct {
	Address string // unix:///path, https://host:port or host:port
	Token   string // secret; for https
	CAFile  string // PEM; the system's roots when empty
}

// ErrUnreachable marks an error in which nobody answered at all.
var ErrUnreachable = errors.New("nobody answers")

// NewClient returns a client; it connects when it is used.
func NewClient(o Options) (*Client, error) {
	c := &Client{address: o.Address, token: o.Token}
	transport := &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second}
	c.http = &http.Client{Transport: transport}
	if path, is := strings.CutPrefix(o.Address, "unix://"); is {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		c.base = "http://kerege"
		return c, nil
	}
	if strings.HasPrefix(o.Address, "http://") {
		return nil, fmt.Errorf("address %s: plain HTTP is never used; say https:// or unix://", o.Address)
	}
	c.base = "https://" + strings.TrimPrefix(o.Address, "https://")
	if _, err := url.Parse(c.base); err != nil {
		return nil, fmt.Errorf("address %s: %w", o.Address, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading CA file %s: no certificate in it", o.CAFile)
		}
	}
	transport.TLSClientConfig = config
	transport.ForceAttemptHTTP2 = true
	return c, nil
}

// Get fetches path into answer (a pointer), or returns *Error as the peer said it.
func (c *Client) Get(ctx context.Context, path string, answer any) error {
	return c.do(ctx, http.MethodGet, path, nil, answer)
}

// Post sends body as JSON and reads the answer, which may be nil.
func (c *Client) Post(ctx context.Context, path string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding request: %w", err)
	}
	return c.do(ctx, http.MethodPost, path, bytes.NewReader(b), answer)
}

const maxAnswer = 64 << 20

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("asking %s: %w", c.address, err)
	}
	if body != nil {
		req.Header.Set("content-type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("x-kerege-token", c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.address, bare(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.address, err)
	}
	if resp.StatusCode >= 300 {
		e := &Error{Status: resp.StatusCode}
		if json.Unmarshal(text, e) != nil || e.Title == "" {
			e.Title = fmt.Sprintf("%s answered %s to %s %s", c.address, resp.Status, method, path)
		}
		return e
	}
	if answer == nil {
		return nil
	}
	if raw, is := answer.(*[]byte); is {
		*raw = text
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.address, err)
	}
	return nil
}

// bare takes away net/http's method and URL: they say nothing over a unix socket.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
