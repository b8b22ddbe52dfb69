package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	alloc = "8ba85cef-1a2b-4c3d-9e4f-5a6b7c8d9e0f"
	other = "8ba85cef-1a2b-4c3d-9e4f-5a6b7c8d9e00"
)

var (
	start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

	rsaKey, weakKey, foreignKey = newRSA(2048), newRSA(1024), newRSA(2048)
	ecKey, _                    = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec384, _                    = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edPub, edKey, _             = ed25519.GenerateKey(rand.Reader)
)

func newRSA(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

type m = map[string]any

// nomad stands for one: what it publishes, and how it answers.
type nomad struct {
	keys   []jose.JSONWebKey
	text   string // instead of keys
	issuer string
	err    error
	asked  int
	now    time.Time
}

func (n *nomad) fetch(context.Context) ([]byte, string, error) {
	n.asked++
	if n.err != nil {
		return nil, "", n.err
	}
	if n.text != "" {
		return []byte(n.text), n.issuer, nil
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: n.keys})
	return text, n.issuer, err
}

func public(id, algorithm string, key any) jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: id, Use: "sig", Algorithm: algorithm, Key: key}
}

func newNomad() *nomad {
	return &nomad{now: start, keys: []jose.JSONWebKey{
		public("r1", "RS256", &rsaKey.PublicKey), public("e1", "ES256", &ecKey.PublicKey), public("d1", "EdDSA", edPub),
		public("weak", "RS256", &weakKey.PublicKey), public("e384", "", &ec384.PublicKey),
		{KeyID: "enc", Use: "enc", Key: &rsaKey.PublicKey}, {KeyID: "oct", Use: "sig", Algorithm: "HS256", Key: []byte("0123456789abcdef0123456789abcdef")},
	}}
}

func (n *nomad) verifier(file string) *Verifier {
	return New(Options{Fetch: n.fetch, File: file, Now: func() time.Time { return n.now }})
}

// good are the claims as a real Nomad 1.11 writes them.
func good() m {
	return m{"aud": []string{"kerege"}, "exp": start.Add(time.Hour).Unix(), "iat": start.Unix(), "nbf": start.Unix(), "jti": "a",
		"nomad_allocation_id": alloc, "nomad_job_id": "web", "nomad_namespace": "default", "nomad_task": "kerege-envoy",
		"sub": "global:default:web:web:kerege-envoy:kerege"}
}

func with(kv ...any) m {
	c := good()
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == nil {
			delete(c, kv[i].(string))
			continue
		}
		c[kv[i].(string)] = kv[i+1]
	}
	return c
}

func b64(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

// sign signs whatever it is told, which no library would.
func sign(header m, body any, key any) string {
	h, _ := json.Marshal(header)
	text, is := body.(string)
	if !is {
		b, _ := json.Marshal(body)
		text = string(b)
	}
	input := b64(h) + "." + b64([]byte(text))
	sum := sha256.Sum256([]byte(input))
	var sig []byte
	switch k := key.(type) {
	case *rsa.PrivateKey:
		sig, _ = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, _ := ecdsa.Sign(rand.Reader, k, sum[:])
		size := (k.Params().BitSize + 7) / 8
		sig = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(input))
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(input))
		sig = mac.Sum(nil)
	}
	return input + "." + b64(sig)
}

func head(alg, kid string, more ...any) m {
	h := m{"alg": alg, "kid": kid, "typ": "JWT"}
	for i := 0; i < len(more); i += 2 {
		h[more[i].(string)] = more[i+1]
	}
	return h
}

func rs(claims any) string { return sign(head("RS256", "r1"), claims, rsaKey) }

func TestTokensThatAreBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		token string
		want  Want
	}{
		"RS256":                 {rs(good()), Want{alloc, "web"}},
		"ES256":                 {sign(head("ES256", "e1"), good(), ecKey), Want{alloc, "web"}},
		"EdDSA":                 {sign(head("EdDSA", "d1"), good(), edKey), Want{alloc, "web"}},
		"one audience, as text": {rs(with("aud", "kerege")), Want{alloc, "web"}},
		"ended a minute ago":    {rs(with("exp", start.Add(-time.Minute).Unix())), Want{alloc, "web"}},
		"begins in a minute":    {rs(with("nbf", start.Add(time.Minute).Unix())), Want{alloc, "web"}},
		"a service's identity":  {rs(with("nomad_task", nil, "nomad_service", "web")), Want{alloc, "web"}},
	} {
		got, err := newNomad().verifier("").Verify(t.Context(), c.token, c.want)
		if err != nil || got.Allocation != alloc || got.Job != "web" || got.Namespace != "default" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestHostileTokens(t *testing.T) {
	pub := x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)
	spki, _ := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	whole := rs(good())
	part := strings.Split(whole, ".")
	jwk, _ := json.Marshal(public("r1", "RS256", &foreignKey.PublicKey))
	flat, _ := json.Marshal(m{"protected": part[0], "payload": part[1], "signature": part[2]})
	swapped := b64([]byte(`{"alg":"RS256","kid":"r1"}`)) + "." + part[1] + "." + part[2]
	twice := strings.Replace(string(mustJSON(good())), `"nomad_allocation_id":"`+alloc+`"`, `"nomad_allocation_id":"`+other+`","nomad_allocation_id":"`+alloc+`"`, 1)
	cases := map[string]string{
		"no token":                        "",
		"no JWT":                          "hello",
		"two parts":                       part[0] + "." + part[1],
		"five parts":                      whole + ".a.b",
		"no signature":                    part[0] + "." + part[1] + ".",
		"JSON serialisation":              string(flat),
		"longer than a token is":          rs(with("pad", strings.Repeat("a", 20<<10))),
		"alg none":                        sign(head("none", "r1"), good(), nil),
		"alg None":                        sign(head("None", "r1"), good(), nil),
		"alg none without a kid":          sign(m{"alg": "none"}, good(), nil),
		"no alg":                          sign(m{"kid": "r1"}, good(), rsaKey),
		"HS256 with the RSA key, PKCS1":   sign(head("HS256", "r1"), good(), pub),
		"HS256 with the RSA key, SPKI":    sign(head("HS256", "r1"), good(), spki),
		"HS256 with a published secret":   sign(head("HS256", "oct"), good(), []byte("0123456789abcdef0123456789abcdef")),
		"RS384":                           sign(head("RS384", "r1"), good(), rsaKey),
		"PS256":                           sign(head("PS256", "r1"), good(), rsaKey),
		"ES384":                           sign(head("ES384", "e384"), good(), ec384),
		"ES256 by a key of another curve": sign(head("ES256", "e384"), good(), ec384),
		"RS256 said of an EC key":         sign(head("RS256", "e1"), good(), rsaKey),
		"ES256 said of an RSA key":        sign(head("ES256", "r1"), good(), ecKey),
		"a weak key":                      sign(head("RS256", "weak"), good(), weakKey),
		"a key for encryption":            sign(head("RS256", "enc"), good(), rsaKey),
		"no kid":                          sign(m{"alg": "RS256"}, good(), rsaKey),
		"an unknown kid":                  sign(head("RS256", "r2"), good(), rsaKey),
		"a kid that is a path":            sign(head("RS256", "../../r1"), good(), rsaKey),
		"a kid that begins the same":      sign(head("RS256", "r"), good(), rsaKey),
		"another cluster, same kid":       sign(head("RS256", "r1"), good(), foreignKey),
		"a key that it brings":            sign(head("RS256", "r1", "jwk", json.RawMessage(jwk)), good(), foreignKey),
		"a good key that it brings":       sign(head("RS256", "r1", "jwk", json.RawMessage(mustJSON(public("r1", "RS256", &rsaKey.PublicKey)))), good(), rsaKey),
		"a critical extension":            sign(head("RS256", "r1", "crit", []string{"x"}, "x", true), good(), rsaKey),
		"another header, same signature":  swapped,
		"another body, same signature":    part[0] + "." + b64(mustJSON(with("nomad_task", "x"))) + "." + part[2],
		"a body that is no JSON":          rs("kerege"),
		"a body that is a list":           rs([]string{"kerege"}),
		"a claim twice":                   rs(twice),
		"expired":                         rs(with("exp", start.Add(-3*time.Minute).Unix())),
		"no end":                          rs(with("exp", nil)),
		"an end that is text":             rs(with("exp", "never")),
		"not yet":                         rs(with("nbf", start.Add(3*time.Minute).Unix())),
		"issued in the future":            rs(with("iat", start.Add(3*time.Minute).Unix())),
		"no audience":                     rs(with("aud", nil)),
		"another audience":                rs(with("aud", []string{"vault.io"})),
		"a longer audience":               rs(with("aud", []string{"kerege.io"})),
		"another audience beside":         rs(with("aud", []string{"kerege", "vault.io"})),
		"an audience in capitals":         rs(with("aud", []string{"Kerege"})),
		"an issuer where there is none":   rs(with("iss", "https://nomad.example")),
		"another allocation":              rs(with("nomad_allocation_id", other)),
		"the allocation's beginning":      rs(with("nomad_allocation_id", alloc[:8])),
		"the allocation and more":         rs(with("nomad_allocation_id", alloc+"0")),
		"the allocation in capitals":      rs(with("nomad_allocation_id", strings.ToUpper(alloc))),
		"no allocation":                   rs(with("nomad_allocation_id", nil)),
		"the claim in capitals":           rs(with("nomad_allocation_id", nil, "Nomad_Allocation_ID", alloc)),
		"the allocation as a list":        rs(with("nomad_allocation_id", []string{alloc})),
		"no job":                          rs(with("nomad_job_id", nil)),
		"no namespace":                    rs(with("nomad_namespace", nil)),
		"neither task nor service":        rs(with("nomad_task", nil)),
		"another service":                 rs(with("nomad_service", "bank")),
		"a service that begins the same":  rs(with("nomad_service", "web-admin")),
	}
	if len(cases) < 40 {
		t.Errorf("%d tokens", len(cases))
	}
	for name, token := range cases {
		v := newNomad().verifier("")
		if got, err := v.Verify(t.Context(), token, Want{alloc, "web"}); err == nil {
			t.Errorf("%s is believed: %+v", name, got)
		} else if len(token) > 40 && strings.Contains(err.Error(), token[len(token)-20:]) {
			t.Errorf("%s: the token is in its error", name)
		}
	}
	if _, err := newNomad().verifier("").Verify(t.Context(), rs(with("nomad_allocation_id", nil)), Want{}); err == nil {
		t.Error("nothing wanted is shown by a token without an allocation")
	}
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func TestIssuerIsNomadsOwn(t *testing.T) {
	n := newNomad()
	n.issuer = "https://nomad.example"
	v := n.verifier("")
	if _, err := v.Verify(t.Context(), rs(with("iss", n.issuer)), Want{alloc, "web"}); err != nil {
		t.Error(err)
	}
	for _, iss := range []any{nil, "", "https://nomad.example/", "https://nomad.example.evil"} {
		if _, err := v.Verify(t.Context(), rs(with("iss", iss)), Want{alloc, "web"}); err == nil {
			t.Errorf("issuer %v is believed", iss)
		}
	}
}

func TestKeysThatGoAway(t *testing.T) {
	want := Want{alloc, "web"}
	late := with("exp", start.Add(100*time.Hour).Unix())
	for name, break_ := range map[string]func(*nomad){
		"down":            func(n *nomad) { n.err = errors.New("connection refused") },
		"garbage":         func(n *nomad) { n.text = "\x00\x01" },
		"HTML":            func(n *nomad) { n.text = "<html>It works!</html>" },
		"an empty set":    func(n *nomad) { n.text = `{"keys":[]}` },
		"null":            func(n *nomad) { n.text = `null` },
		"secrets alone":   func(n *nomad) { n.keys = n.keys[len(n.keys)-1:] },
		"one id twice":    func(n *nomad) { n.keys = append(n.keys, public("r1", "RS256", &foreignKey.PublicKey)) },
		"too many to ask": func(n *nomad) { n.text = `{"keys":[` + strings.Repeat(`{"kty":"x"},`, 300) + `{}]}` },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNomad()
			break_(n)
			if _, err := n.verifier("").Verify(t.Context(), rs(late), want); !errors.Is(err, ErrNoKeys) {
				t.Fatalf("without any key ever: %v", err)
			}
			n = newNomad()
			file := filepath.Join(t.TempDir(), "keys.json")
			v := n.verifier(file)
			if _, err := v.Verify(t.Context(), rs(late), want); err != nil {
				t.Fatal(err)
			}
			break_(n)
			for _, after := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour} {
				n.now = start.Add(after)
				if _, err := v.Verify(t.Context(), rs(late), want); err != nil {
					t.Fatalf("after %s: %v", after, err)
				}
			}
			if _, err := n.verifier(file).Verify(t.Context(), rs(late), want); err != nil {
				t.Fatalf("after a restart: %v", err)
			}
			n.now = start.Add(24*time.Hour + time.Second)
			for _, v := range []*Verifier{v, n.verifier(file)} {
				if _, err := v.Verify(t.Context(), rs(late), want); !errors.Is(err, ErrNoKeys) {
					t.Fatalf("after a day: %v", err)
				}
			}
			fresh := newNomad()
			n.err, n.text, n.keys = nil, "", fresh.keys
			n.now = n.now.Add(askEvery)
			if _, err := v.Verify(t.Context(), rs(late), want); err != nil {
				t.Fatalf("when it is back: %v", err)
			}
		})
	}
}

func TestKeysAreRotated(t *testing.T) {
	n, want := newNomad(), Want{alloc, "web"}
	v := n.verifier("")
	if _, err := v.Verify(t.Context(), rs(good()), want); err != nil || n.asked != 1 {
		t.Fatal(err, n.asked)
	}
	n.keys = []jose.JSONWebKey{public("r2", "RS256", &foreignKey.PublicKey)}
	next := sign(head("RS256", "r2"), good(), foreignKey)
	n.now = start.Add(10 * time.Second)
	for range 100 { // unknown keys do not make us ask and ask
		if _, err := v.Verify(t.Context(), next, want); err == nil {
			t.Fatal("a key that was not asked for is believed")
		}
	}
	if n.asked != 1 {
		t.Fatalf("asked %d times", n.asked)
	}
	n.now = start.Add(askEvery)
	if _, err := v.Verify(t.Context(), next, want); err != nil || n.asked != 2 {
		t.Fatal(err, n.asked)
	}
	n.now = n.now.Add(askEvery)
	if _, err := v.Verify(t.Context(), rs(good()), want); err == nil {
		t.Fatal("a key that Nomad took away is believed")
	}
	for range 10 {
		n.now = n.now.Add(time.Second)
		if _, err := v.Verify(t.Context(), next, want); err != nil {
			t.Fatal(err)
		}
	}
	if n.asked != 3 {
		t.Errorf("fresh keys are asked for: %d", n.asked)
	}
	n.keys = newNomad().keys // a key is taken away without an unknown one being shown
	n.now = n.now.Add(freshFor + time.Second)
	if _, err := v.Verify(t.Context(), next, want); err == nil {
		t.Error("a key that Nomad took away is believed")
	}
}

func TestDamagedKeysOnDiskAreAskedForAnew(t *testing.T) {
	n, file := newNomad(), filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, []byte(`{"fetched":"2026-05-01T12:00:00Z","keys":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.verifier(file).Verify(t.Context(), rs(good()), Want{alloc, "web"}); err != nil || n.asked != 1 {
		t.Fatal(err, n.asked)
	}
	n.now = start.Add(-time.Hour) // a clock that goes back asks again
	_, _ = n.verifier(file).Verify(t.Context(), rs(good()), Want{alloc, "web"})
	if n.asked != 2 {
		t.Errorf("asked %d times", n.asked)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(rs(good()))
	f.Add(sign(head("none", "r1"), good(), nil))
	n := newNomad()
	v := n.verifier("")
	ok := rs(good())
	f.Fuzz(func(t *testing.T, token string) {
		got, err := v.Verify(t.Context(), token, Want{other, "web"})
		if err == nil {
			t.Fatalf("%q is believed: %+v (beside %q)", token, got, ok[:8])
		}
	})
}

// Who reads the logs of an allocation reads what mends it.
func TestARefusalNamesWhatMendsIt(t *testing.T) {
	for name, c := range map[string]struct{ token, want string }{
		"no JWT":             {"hello", "that Nomad writes for the identity block"},
		"expired":            {rs(with("exp", start.Add(-3*time.Minute).Unix())), "file = true"},
		"no end":             {rs(with("exp", nil)), `ttl = "1h"`},
		"not yet":            {rs(with("nbf", start.Add(3*time.Minute).Unix())), "clocks"},
		"another audience":   {rs(with("aud", []string{"vault.io"})), `aud = ["kerege"]`},
		"another issuer":     {rs(with("iss", "https://other.example")), "the server's nomad block"},
		"another cluster":    {sign(head("RS256", "r2"), good(), foreignKey), "the server's nomad block"},
		"another allocation": {rs(with("nomad_allocation_id", other)), "-workload $NOMAD_ALLOC_ID"},
		"another service":    {rs(with("nomad_service", "bank")), "the task that runs kerege envoy"},
	} {
		_, err := newNomad().verifier("").Verify(t.Context(), c.token, Want{alloc, "web"})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, not %q", name, err, c.want)
		}
	}
}
