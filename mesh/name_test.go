package mesh

import (
	"strings"
	"testing"
)

func TestParseIdentity(t *testing.T) {
	for _, s := range []string{
		"spiffe://prod.example/svc/api", "spiffe://prod.example/ns/team-a/svc/api",
		"spiffe://kerege.local/node/vm-7.dc1", "spiffe://kerege.local/server/s1",
	} {
		id, err := ParseIdentity(s)
		if err != nil || id.String() != s {
			t.Errorf("ParseIdentity(%q) = %+v, %v", s, id, err)
		}
	}
	for _, s := range []string{
		"", "spiffe://", "spiffe://prod.example", "spiffe://prod.example/", "spiffe://prod.example/svc", "spiffe://prod.example/svc/",
		"spiffe://prod.example/svc/api/", "spiffe://prod.example//svc/api", "spiffe://Prod.example/svc/api", "SPIFFE://prod.example/svc/api",
		"spiffe://prod.ex\u0430mple/svc/api", "spiffe://prod.example/svc/\u0430pi", "spiffe://prod..example/svc/api", "spiffe://.example/svc/api",
		"spiffe://prod.example./svc/api", "spiffe://prod.example/svc/..", "spiffe://prod.example/../svc/api", "spiffe://prod.example/svc/API",
		"spiffe://prod.example/svc/api?x", "spiffe://prod.example/svc/api#x", "spiffe://prod.example/svc/a%70i", "spiffe://u@prod.example/svc/api",
		"spiffe://prod.example:1/svc/api", "spiffe://prod.example/user/api", "spiffe://prod.example/ns/a/node/n1", "spiffe://prod.example/ns//svc/api",
		"spiffe://prod.example/svc/api\x00", "https://prod.example/svc/api", " spiffe://prod.example/svc/api", "spiffe://prod.example/svc/" + strings.Repeat("a", 64),
	} {
		if id, err := ParseIdentity(s); err == nil {
			t.Errorf("ParseIdentity(%q) = %+v, want an error", s, id)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("spiffe://prod.example/svc/api")
	f.Add("spiffe://prod.example/ns/a/svc/api")
	f.Add("spiffe://x/node/vm-7.dc1")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseIdentity(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Fatalf("%q reads as %q: two spellings of one identity", s, id)
		}
		if strings.ToLower(id.TrustDomain) != id.TrustDomain || strings.Contains(s, "..") || strings.HasSuffix(s, "/") {
			t.Fatalf("%q passed", s)
		}
		for i := range len(s) {
			if s[i] <= ' ' || s[i] > '~' {
				t.Fatalf("%q passed", s)
			}
		}
	})
}

func FuzzParseProxyID(f *testing.F) {
	f.Add("api/vm-7")
	f.Add("api/vm-7/1f2e")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseProxyID(s); err == nil && id.String() != s {
			t.Fatalf("%q reads as %q", s, id)
		}
	})
}

func TestParseProxyID(t *testing.T) {
	for _, s := range []string{"api/n1", "api/vm-7.dc1/1f2e-aa"} {
		if id, err := ParseProxyID(s); err != nil || id.String() != s {
			t.Errorf("ParseProxyID(%q) = %+v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "api", "api/", "/n1", "api/n1/", "api/n1/w/x", "API/n1", "api/..", "api/n..1", "api/n1/../x", "api/.n1"} {
		if id, err := ParseProxyID(s); err == nil {
			t.Errorf("ParseProxyID(%q) = %+v, want an error", s, id)
		}
	}
}

func TestMatchName(t *testing.T) {
	for _, c := range []struct {
		token, name string
		want        bool
	}{
		{"api", "api", true}, {"api", "api2", false}, {"*", "api", true}, {"batch-*", "batch-a", true}, {"batch-*", "batch", false}, {"batch-*", "xbatch-a", false},
	} {
		if got := MatchName(c.token, ServiceName(c.name)); got != c.want {
			t.Errorf("MatchName(%q, %q) = %v", c.token, c.name, got)
		}
	}
}
