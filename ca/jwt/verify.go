package jwt

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/go-hclog"
)

// Audience is the one that a token must be for.
const Audience = "kerege"

const (
	leeway   = 2 * time.Minute // between Nomad's clock and ours
	maxToken = 16 << 10        // bytes
)

// ErrNoKeys says that no token can be judged, whoever shows it.
var ErrNoKeys = errors.New("nomad's keys are not known")

var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}

// Fetch asks Nomad for its keys (a JWK set) and for its issuer; "" is a Nomad
// that has none, and whose tokens name none.
type Fetch func(ctx context.Context) (keys []byte, issuer string, err error)

// Options of a Verifier.
type Options struct {
	Fetch Fetch
	File  string // keeps the keys that were good last; "": in memory only
	Log   hclog.Logger
	Now   func() time.Time
}

// Verifier judges tokens. It is safe for concurrent use.
type Verifier struct {
	opt Options

	mu    sync.Mutex
	keys  *keySet // nil: none yet
	tried time.Time
	err   error // of the last try
}

// New makes a Verifier with the keys on disk, if they are there. Nomad is not
// asked before Verify.
func New(opt Options) *Verifier {
	if opt.Log == nil {
		opt.Log = hclog.NewNullLogger()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	v := &Verifier{opt: opt}
	v.load()
	return v
}

// Want is what a token must say.
type Want struct {
	Allocation string // nomad_allocation_id
	Service    string // nomad_service, where the identity is a service's and not a task's
}

// Claims is what a token that was believed says.
type Claims struct {
	Allocation string
	Job        string
	Namespace  string
	Task       string
	Service    string
	Expires    time.Time
}

// claims are Nomad's own. go-jose's decoder minds the case of names and refuses
// one that is there twice.
type claims struct {
	Allocation string `json:"nomad_allocation_id"`
	Job        string `json:"nomad_job_id"`
	Namespace  string `json:"nomad_namespace"`
	Task       string `json:"nomad_task"`
	Service    string `json:"nomad_service"`
}

// Verify says whether a token shows what is wanted. An error is a sentence for
// whoever showed it; ErrNoKeys where it could not be judged.
func (v *Verifier) Verify(ctx context.Context, token string, want Want) (Claims, error) {
	if len(token) > maxToken {
		return Claims{}, fmt.Errorf("the token has more than %d KiB", maxToken>>10)
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return Claims{}, errors.New("the token is no JWT that is signed by RS256, ES256 or EdDSA: it is to be the one that Nomad writes for the identity block")
	}
	if len(parsed.Headers) != 1 {
		return Claims{}, errors.New("the token has not one signature")
	}
	h := parsed.Headers[0]
	switch {
	case h.KeyID == "":
		return Claims{}, errors.New("the token names no key (kid)")
	case h.JSONWebKey != nil:
		return Claims{}, errors.New("the token brings a key of its own")
	}
	key, issuer, err := v.key(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return Claims{}, err
	}
	var std jwt.Claims
	var own claims
	if err := parsed.Claims(key, &std, &own); err != nil {
		return Claims{}, errors.New("the token's signature is not by the key that it names, or its claims cannot be read")
	}
	if err := v.times(std); err != nil {
		return Claims{}, err
	}
	if err := judge(std, own, issuer, want); err != nil {
		return Claims{}, err
	}
	return Claims{Allocation: own.Allocation, Job: own.Job, Namespace: own.Namespace, Task: own.Task, Service: own.Service, Expires: std.Expiry.Time()}, nil
}

func (v *Verifier) times(std jwt.Claims) error {
	now := v.opt.Now()
	switch {
	case std.Expiry == nil:
		return errors.New(`the token has no end: write ttl = "1h" into the identity block`)
	case now.After(std.Expiry.Time().Add(leeway)):
		return fmt.Errorf("the token ended at %s: Nomad writes a new one before that, where the identity block has file = true and the sidecar reads it", std.Expiry.Time().UTC().Format(time.RFC3339))
	case std.NotBefore != nil && now.Before(std.NotBefore.Time().Add(-leeway)):
		return fmt.Errorf("the token begins at %s, which is not yet: are the clocks of Nomad and of the server alike?", std.NotBefore.Time().UTC().Format(time.RFC3339))
	case std.IssuedAt != nil && now.Before(std.IssuedAt.Time().Add(-leeway)):
		return errors.New("the token was issued in the future: are the clocks of Nomad and of the server alike?")
	}
	return nil
}

func judge(std jwt.Claims, own claims, issuer string, want Want) error {
	switch {
	case std.Issuer != issuer:
		return fmt.Errorf("the token's issuer is %.80q, and this cluster's is %q: the server's nomad block is to name the cluster that runs the job", std.Issuer, issuer)
	case len(std.Audience) != 1 || std.Audience[0] != Audience:
		return fmt.Errorf("the token is for %.80q: write aud = [%q], and nothing else, into the identity block", []string(std.Audience), Audience)
	case want.Allocation == "" || own.Allocation != want.Allocation:
		return fmt.Errorf("the token is of allocation %.80q, not of %.80q: the sidecar is to run with -workload $NOMAD_ALLOC_ID", own.Allocation, want.Allocation)
	case own.Job == "" || own.Namespace == "":
		return errors.New("the token names no job and namespace: it is no identity of a workload")
	case own.Task == "" && own.Service == "":
		return errors.New("the token names neither task nor service: it is no identity of a workload")
	case own.Service != "" && own.Service != want.Service:
		return fmt.Errorf("the token is of service %.80q, not of %.80q: the identity block belongs to the task that runs kerege envoy, or to that service", own.Service, want.Service)
	}
	return nil
}

// fits tells whether a public key may check signatures of an algorithm.
func fits(k jose.JSONWebKey, algorithm string) bool {
	if k.Algorithm != "" && k.Algorithm != algorithm {
		return false
	}
	switch jose.SignatureAlgorithm(algorithm) {
	case jose.RS256:
		_, is := k.Key.(*rsa.PublicKey)
		return is
	case jose.ES256:
		_, is := k.Key.(*ecdsa.PublicKey)
		return is
	case jose.EdDSA:
		_, is := k.Key.(ed25519.PublicKey)
		return is
	}
	return false
}

// usable tells whether a key of a set is a public one that signs and is strong
// enough; a set's symmetric and private keys are not.
func usable(k jose.JSONWebKey) bool {
	if k.KeyID == "" || cmp.Or(k.Use, "sig") != "sig" || !k.Valid() {
		return false
	}
	switch p := k.Key.(type) {
	case *rsa.PublicKey:
		return p.N.BitLen() >= 2048 && p.N.BitLen() <= 8192
	case *ecdsa.PublicKey:
		return p.Curve.Params().BitSize == 256
	case ed25519.PublicKey:
		return len(p) == ed25519.PublicKeySize
	}
	return false
}
