package jwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/kerege/kerege/durable"
)

const (
	freshFor  = 5 * time.Minute  // keys are asked for again after it
	lastGood  = 24 * time.Hour   // keys that Nomad does not confirm count no longer
	askEvery  = 30 * time.Second // at most
	askWithin = 5 * time.Second
	maxKeys   = 256
)

// keySet is what Nomad said last that could be believed.
type keySet struct {
	issuer  string
	byID    map[string]jose.JSONWebKey
	fetched time.Time
}

// kept is a keySet on disk. It holds public keys only.
type kept struct {
	Fetched time.Time       `json:"fetched"`
	Issuer  string          `json:"issuer,omitempty"`
	Keys    json.RawMessage `json:"keys"`
}

// key finds the one that a token names, and the issuer it must name. Keys that
// are not fresh, and a set that lacks the key, are asked for again.
func (v *Verifier) key(ctx context.Context, id, algorithm string) (jose.JSONWebKey, string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.opt.Now()
	k, known := v.find(id)
	if !known || now.Sub(v.keys.fetched) > freshFor || now.Before(v.keys.fetched) {
		v.ask(ctx, now)
		k, known = v.find(id)
	}
	switch {
	case v.keys == nil:
		return k, "", fmt.Errorf("%w: %w", ErrNoKeys, errors.Join(v.err))
	case now.Sub(v.keys.fetched) > lastGood:
		return k, "", fmt.Errorf("%w: those of %s are too old to count: %w", ErrNoKeys, v.keys.fetched.UTC().Format(time.RFC3339), errors.Join(v.err))
	case !known:
		return k, "", fmt.Errorf("the token is signed by a key that this cluster does not publish (kid %.80q): the server's nomad block is to name the cluster that runs the job", id)
	case !fits(k, algorithm):
		return k, "", fmt.Errorf("the token is signed by %.20q, which its key is not for", algorithm)
	}
	return k, v.keys.issuer, nil
}

func (v *Verifier) find(id string) (k jose.JSONWebKey, known bool) {
	if v.keys == nil {
		return k, false
	}
	k, known = v.keys.byID[id]
	return k, known
}

// ask fetches the keys, at most every 30 s. What cannot be believed changes
// nothing. mu is held: who comes meanwhile waits for the same answer.
func (v *Verifier) ask(ctx context.Context, now time.Time) {
	if since := now.Sub(v.tried); !v.tried.IsZero() && since >= 0 && since < askEvery {
		return
	}
	v.tried = now
	// One caller that goes away must not leave the others without keys for 30 s.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
	defer cancel()
	text, issuer, err := v.opt.Fetch(ctx)
	var set *keySet
	if err == nil {
		set, err = parse(text, issuer)
	}
	if err != nil {
		v.err = fmt.Errorf("asking nomad for its keys: %w", err)
		v.opt.Log.Warn("nomad's keys cannot be fetched; the last good ones count for 24 h", "error", err)
		return
	}
	set.fetched, v.keys, v.err = now, set, nil
	v.save(text)
}

// parse reads a JWK set. Keys that do not sign, or are too weak, are left out.
func parse(text []byte, issuer string) (*keySet, error) {
	var doc jose.JSONWebKeySet
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, errors.New("the answer is no JWK set")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("the answer has %d keys; %d are believed", len(doc.Keys), maxKeys)
	}
	set := &keySet{issuer: issuer, byID: map[string]jose.JSONWebKey{}}
	for _, k := range doc.Keys {
		if !usable(k) {
			continue
		}
		if _, twice := set.byID[k.KeyID]; twice {
			return nil, fmt.Errorf("two keys have the id %.80q", k.KeyID)
		}
		set.byID[k.KeyID] = k
	}
	if len(set.byID) == 0 {
		return nil, errors.New("the answer holds no key that signs")
	}
	return set, nil
}

// load takes in the keys that were good last, if they are on disk.
func (v *Verifier) load() {
	if v.opt.File == "" {
		return
	}
	text, err := os.ReadFile(v.opt.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	var set *keySet
	if err == nil {
		set, err = parse(k.Keys, k.Issuer)
	}
	if err != nil {
		v.opt.Log.Warn("nomad's keys on disk are not believed; they are asked for anew", "file", v.opt.File, "error", err)
		return
	}
	set.fetched, v.keys = k.Fetched, set
}

// save writes the keys; a disk that does not take them is said, and no more.
func (v *Verifier) save(keys []byte) {
	if v.opt.File == "" {
		return
	}
	if err := v.write(keys); err != nil {
		v.opt.Log.Warn("nomad's keys are not on disk; a restart needs nomad", "error", err)
	}
}

func (v *Verifier) write(keys []byte) error {
	text, err := json.Marshal(kept{Fetched: v.keys.fetched.Round(0), Issuer: v.keys.issuer, Keys: keys})
	if err != nil {
		return err
	}
	return durable.WriteFile(v.opt.File, text)
}
