package server

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// What a server has promised outlives it: CA, virtual addresses, members, tokens.
func TestARestartChangesNothing(t *testing.T) {
	r := newRig(t).start()
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-2"}))
	in := func() bool { return r.s.hub.Snapshot().Instances("api")[0].In }
	r.until("the member is in", in)
	type facts struct {
		Bundle, Token, VIP4, VIP6 string
		Generation                api.Generation
	}
	look := func() facts {
		st := local[api.Status](r, "GET", "/v1/status", "")
		svc := local[[]api.Service](r, "GET", "/v1/services", "")
		if len(svc) != 2 || svc[0].Name != "api" || svc[0].VIP4 == "" || !st.Ready {
			t.Fatalf("%+v %+v", svc, st)
		}
		st.Generation.Applied = time.Time{}
		return facts{Bundle: string(r.s.ca.Bundle()), Token: r.s.secret, VIP4: svc[0].VIP4, VIP6: svc[0].VIP6, Generation: st.Generation}
	}
	before := look()
	r.again()
	if after := look(); after != before {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if !in() {
		t.Error("the member is out")
	}
	nodes := local[api.Status](r, "GET", "/v1/status", "").Nodes
	if len(nodes) != 1 || nodes[0].Name != "vm-2" || nodes[0].Connected || !slices.Equal(nodes[0].Services, []string{"api"}) {
		t.Errorf("nodes %+v", nodes)
	}

	// Files that are broken while the server is down: what was in force goes on.
	noError(t, r.stop())
	r.write("service {")
	r.start()
	st := local[api.Status](r, "GET", "/v1/status", "")
	if st.Generation.Number != before.Generation.Number || st.TrustDomain != "test.example" || len(st.Differs) != 1 || st.Sources[0].State != "error" {
		t.Errorf("with broken files: %+v", st)
	}
}

func TestADamagedCAStopsTheStart(t *testing.T) {
	r := newRig(t).start()
	noError(t, r.stop())
	state := filepath.Join(r.cfg.DataDir, "ca", "ca.state")
	good, err := os.ReadFile(state)
	noError(t, err)
	for what, damage := range map[string]func() error{
		"a flipped bit": func() error {
			bad := slices.Clone(good)
			bad[len(bad)/2] ^= 1
			return os.WriteFile(state, bad, 0o600)
		},
		"a cut file":          func() error { return os.WriteFile(state, good[:len(good)/2], 0o600) },
		"an empty file":       func() error { return os.WriteFile(state, nil, 0o600) },
		"a file that is gone": func() error { return os.Remove(state) },
		"readable by all":     func() error { return errors.Join(os.WriteFile(state, good, 0o600), os.Chmod(state, 0o644)) },
	} {
		noError(t, damage())
		damaged, _ := os.ReadFile(state)
		err := r.open()
		if err == nil || !errors.Is(err, ca.ErrDamaged) || !strings.Contains(err.Error(), "ca.state") && !strings.Contains(err.Error(), "/ca") {
			t.Errorf("%s: %v", what, err)
		}
		if now, _ := os.ReadFile(state); string(now) != string(damaged) {
			t.Errorf("%s: the state was written to", what)
		}
		noError(t, os.WriteFile(state, good, 0o600))
		noError(t, os.Chmod(state, 0o600))
	}
	r.start() // as it was, it is taken again: nothing was locked or lost
}

func TestAnotherTrustDomainStopsTheStart(t *testing.T) {
	r := newRig(t).start()
	noError(t, r.stop())
	noError(t, os.Remove(filepath.Join(r.cfg.DataDir, "mesh.json")))
	r.write(`mesh { trust_domain = "other.example" }`)
	if err := r.open(); err == nil || !strings.Contains(err.Error(), "other.example") || !strings.Contains(err.Error(), "test.example") {
		t.Errorf("%v", err)
	}
}

func TestNoMeshNoStart(t *testing.T) {
	r := newRig(t)
	r.write("service {")
	if err := r.open(); err == nil || !strings.Contains(err.Error(), "mesh.hcl:1") {
		t.Errorf("%v, want where", err)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.DataDir, "ca")); err == nil {
		t.Error("a root was made for a mesh that nobody can read")
	}
}

// A port that is taken ends the server with a sentence, whichever it is.
func TestAPortThatIsTakenEndsTheServer(t *testing.T) {
	for _, which := range []string{"grpc", "https", "metrics"} {
		r := newRig(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		noError(t, err)
		defer l.Close()
		switch which {
		case "grpc":
			r.cfg.Addresses.GRPC = l.Addr().String()
		case "https":
			r.cfg.Addresses.HTTPS = l.Addr().String()
		case "metrics":
			r.cfg.Addresses.Metrics = l.Addr().String()
		}
		noError(t, r.open())
		done := make(chan error, 1)
		go func() { done <- r.s.Run(context.Background()) }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "address already in use") {
				t.Errorf("%s: %v", which, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the server hangs", which)
		}
	}
}

func TestWhoMayReadTheServersSecrets(t *testing.T) {
	r := newRig(t).start()
	token := local[api.Token](r, "POST", "/v1/tokens", `{"node":"vm-7"}`)
	if token.Token == "" || token.Node != "vm-7" {
		t.Errorf("%+v", token)
	}
	for path, want := range map[string]os.FileMode{
		filepath.Join(r.cfg.DataDir, "operator-token"):    0o600,
		filepath.Join(r.cfg.DataDir, "ca", "root.key"):    0o600,
		filepath.Join(r.cfg.DataDir, "ca", "tokens.json"): 0o600,
		filepath.Join(r.cfg.RunDir, "server", "api.sock"): 0o600,
		r.cfg.DataDir: 0o700,
	} {
		info, err := os.Stat(path)
		noError(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
	for _, secret := range []string{r.s.secret, token.Token} {
		if len(secret) < 32 || strings.Contains(r.log.String(), secret) {
			t.Errorf("a secret of %d characters, and perhaps in the log", len(secret))
		}
	}
	st, err := json.Marshal(local[api.Status](r, "GET", "/v1/status", ""))
	noError(t, err)
	if strings.Contains(string(st), r.s.secret) || strings.Contains(string(st), "PRIVATE KEY") {
		t.Error("the status tells a secret")
	}
}

// A token that others could have read or that is no token is not taken for one.
func TestAnOperatorTokenThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "operator-token")
	first, err := operatorToken(path)
	noError(t, err)
	if again, err := operatorToken(path); err != nil || again != first {
		t.Errorf("another token the second time: %v", err)
	}
	noError(t, os.Chmod(path, 0o644))
	if _, err := operatorToken(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by all: %v", err)
	}
	noError(t, os.WriteFile(path, []byte("\n"), 0o600))
	noError(t, os.Chmod(path, 0o600))
	if token, err := operatorToken(path); err == nil || token != "" {
		t.Errorf("an empty file gives the token %q, %v", token, err)
	}
}
