package consul

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/consul/api"
)

type secret string

func (s secret) Reveal() string { return string(s) }
func (s secret) String() string { return "[redacted]" }

// asked makes a client, asks once, and gives what arrived.
func asked(t *testing.T, opt Options, l net.Listener) *http.Request {
	t.Helper()
	var got *http.Request
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		fmt.Fprint(w, `"10.0.0.1:8300"`)
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	client, _, err := newClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Status().LeaderWithQueryOptions(&api.QueryOptions{}); err != nil {
		t.Fatal(err)
	}
	return got
}

func tcp(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTokensByRank(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	opt := Options{Token: secret("option"), TokenFile: file("a", "option file")}
	t.Setenv("CONSUL_HTTP_TOKEN", "environment")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", file("b", "environment file"))
	want := func(what string) {
		t.Helper()
		l := tcp(t)
		opt.Address = l.Addr().String()
		if got := asked(t, opt, l).Header.Get("X-Consul-Token"); got != what {
			t.Errorf("token %q, want %q", got, what)
		}
	}
	want("option file")
	opt.TokenFile = ""
	want("option")
	opt.Token = nil
	want("environment file")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	want("environment")
}

func TestAddressFromTheEnvironmentAndUnixSockets(t *testing.T) {
	l := tcp(t)
	t.Setenv("CONSUL_HTTP_ADDR", l.Addr().String())
	t.Setenv("CONSUL_NAMESPACE", "team")
	asked(t, Options{}, l)
	dir, err := os.MkdirTemp("", "kr")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	u, err := net.Listen("unix", dir+"/c.sock")
	if err != nil {
		t.Fatal(err)
	}
	if got := asked(t, Options{Address: "unix://" + dir + "/c.sock", Token: secret("x")}, u); got.Header.Get("X-Consul-Token") != "x" {
		t.Error("no token over a unix socket")
	}
}
