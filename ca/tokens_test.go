package ca

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

type desk struct {
	*Tokens
	c     *clock
	path  string
	mu    sync.Mutex
	audit []string
	tries int
}

func newDesk(t *testing.T) *desk {
	d := &desk{c: newClock(), path: filepath.Join(t.TempDir(), "tokens")}
	d.reopen(t)
	return d
}

func (d *desk) reopen(t *testing.T) {
	t.Helper()
	var err error
	d.Tokens, err = OpenTokens(d.path, TokenOptions{
		CAHash: func() [32]byte { return [32]byte{1} }, Servers: []string{"10.0.0.1:7401"}, Now: d.c.now,
		Audit: func(event string, kv ...any) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.audit = append(d.audit, fmt.Sprintln(append([]any{event}, kv...)...))
		},
	})
	must(t, err)
}

func (d *desk) create(t *testing.T, node string, ttl time.Duration) string {
	t.Helper()
	k, _, err := d.Create(node, RoleNode, ttl)
	must(t, err)
	return k.Text()
}

// spend comes from another address each time.
func (d *desk) spend(text, node string) error {
	d.tries++
	return d.Spend(text, node, fmt.Sprintf("10.%d.%d.1", d.tries/200, d.tries%200))
}

func TestATokenWorksOnceUnderARace(t *testing.T) {
	d := newDesk(t)
	text := d.create(t, "", 0)
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			err := d.Spend(text, fmt.Sprintf("vm-%d", i), fmt.Sprintf("10.0.0.%d", i))
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "was used") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d joined with one token", won.Load())
	}
	if len(d.audit) != 101 {
		t.Errorf("%d audit lines for one token made and 100 tries", len(d.audit))
	}
	for _, line := range d.audit {
		if strings.Contains(line, text[3:40]) {
			t.Error("an audit line shows the token")
		}
	}
	d.reopen(t)
	if err := d.spend(text, "vm-200"); !errors.Is(err, ErrToken) {
		t.Errorf("after a restart: %v", err)
	}
	disk, _ := os.ReadFile(d.path)
	k, _ := keregev1.ParseJoinToken(text)
	if strings.Contains(string(disk), fmt.Sprintf("%x", k.Secret)) {
		t.Error("the secret is on disk")
	}
}

func TestWhoATokenLetsIn(t *testing.T) {
	refused := func(t *testing.T, err error, says string) {
		t.Helper()
		if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	t.Run("expired", func(t *testing.T) {
		d := newDesk(t)
		text := d.create(t, "vm-1", 0)
		d.c.t = d.c.t.Add(10*time.Minute + time.Second)
		refused(t, d.spend(text, "vm-1"), "expired at")
	})
	t.Run("another node", func(t *testing.T) {
		d := newDesk(t)
		text := d.create(t, "vm-1", 0)
		refused(t, d.spend(text, "vm-2"), "for another node")
		must(t, d.spend(text, "vm-1")) // the wrong try did not use it up
	})
	t.Run("guessed", func(t *testing.T) {
		d := newDesk(t)
		d.create(t, "", 0)
		refused(t, d.spend(keregev1.NewJoinToken([32]byte{1}, nil).Text(), "vm-1"), "does not know")
		refused(t, d.spend("kj_AAAA", "vm-1"), "not whole")
		refused(t, d.spend("", "vm-1"), "no join token")
		refused(t, d.spend(d.create(t, "", 0), "../vm"), "name")
	})
	t.Run("twice one node", func(t *testing.T) {
		d := newDesk(t)
		any, early := d.create(t, "", 0), d.create(t, "vm-1", 0)
		d.c.t = d.c.t.Add(time.Second)
		must(t, d.spend(d.create(t, "", 0), "vm-1"))
		refused(t, d.spend(any, "vm-1"), "joined at")
		refused(t, d.spend(early, "vm-1"), "joined at")
		first := d.c.t
		must(t, d.Admitted("vm-1", first.Add(-time.Hour)))
		d.c.t = d.c.t.Add(time.Minute)
		must(t, d.spend(d.create(t, "vm-1", 0), "vm-1")) // the operator said so after it was in
		if err := d.Admitted("vm-1", first); err == nil || !strings.Contains(err.Error(), "another host joined") {
			t.Errorf("the host that was replaced: %v", err)
		}
		must(t, d.Admitted("vm-1", d.c.t.Truncate(time.Second)))
	})
	t.Run("banned", func(t *testing.T) {
		d := newDesk(t)
		text := d.create(t, "", 0)
		must(t, d.Ban("vm-1", "stolen"))
		d.reopen(t)
		refused(t, d.spend(text, "vm-1"), "banned")
		if _, _, err := d.Create("vm-1", RoleNode, 0); err == nil {
			t.Error("a token for a banned node")
		}
		if err := d.Admitted("vm-1", d.c.t); err == nil || !strings.Contains(err.Error(), "banned") {
			t.Error(err)
		}
		must(t, d.Unban("vm-1"))
		must(t, d.spend(text, "vm-1"))
		must(t, d.Admitted("vm-1", d.c.t))
	})
	t.Run("evicted", func(t *testing.T) {
		d := newDesk(t)
		must(t, d.spend(d.create(t, "", 0), "vm-1"))
		d.c.t = d.c.t.Add(time.Minute)
		must(t, d.Evict("vm-1"))
		if err := d.Admitted("vm-1", d.c.t.Add(time.Hour)); err == nil {
			t.Error("an evicted node goes on")
		}
		must(t, d.spend(d.create(t, "", 0), "vm-1"))
		must(t, d.Admitted("vm-1", d.c.t.Truncate(time.Second)))
		must(t, d.Admitted("never-seen", d.c.t))
	})
}

func TestOneTryASecondAnAddress(t *testing.T) {
	d := newDesk(t)
	text := d.create(t, "", 0)
	guess := keregev1.NewJoinToken([32]byte{1}, nil).Text()
	if err := d.Spend(guess, "a", "2001:db8::1"); !errors.Is(err, ErrToken) {
		t.Fatal(err)
	}
	for _, from := range []string{"2001:db8::1", "2001:db8::2"} { // one /64 is one client
		if err := d.Spend(text, "a", from); !errors.Is(err, ErrTooFast) {
			t.Errorf("%s: %v", from, err)
		}
	}
	must(t, d.Spend(d.create(t, "", 0), "b", "::ffff:10.0.0.1"))
	if err := d.Spend(text, "a", "10.0.0.1"); !errors.Is(err, ErrTooFast) {
		t.Errorf("the same address as IPv4: %v", err)
	}
	d.c.t = d.c.t.Add(time.Second)
	must(t, d.Spend(text, "a", "10.0.0.1"))
	var many tries
	for i := range maxAddresses + 10 {
		many.allow(fmt.Sprint(i), d.c.t)
	}
	if len(many.last) > maxAddresses {
		t.Error("a flood of addresses takes memory without bound")
	}
}

func TestADamagedTokenFileStopsTheStart(t *testing.T) {
	d := newDesk(t)
	d.create(t, "", 0)
	text, _ := os.ReadFile(d.path)
	text[len(text)-5] ^= 1
	must(t, os.WriteFile(d.path, text, 0o600))
	if _, err := OpenTokens(d.path, TokenOptions{}); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func TestSpentTokensAreForgottenInTheEnd(t *testing.T) {
	d := newDesk(t)
	for range 20 {
		d.create(t, "", time.Minute)
		d.c.t = d.c.t.Add(30 * time.Hour)
	}
	if n := len(d.table.Tokens); n > 2 {
		t.Errorf("%d tokens are kept", n)
	}
}

func TestTokensPrintAsRedacted(t *testing.T) {
	k := keregev1.NewJoinToken([32]byte{1}, []string{"a:1"})
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, &k)} {
		if strings.Trim(strings.ReplaceAll(s, "[redacted]", ""), " &") != "" {
			t.Errorf("it prints as %q", s)
		}
	}
	again, err := keregev1.ParseJoinToken(" " + k.Text() + "\n")
	if err != nil || again.Text() != k.Text() {
		t.Errorf("%v", err)
	}
}

// A token of before does not let a host back that was sent away, whomever it was
// for; a ban that is taken back makes none of them good again.
func TestTokensOfBeforeAnEviction(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	x, err := OpenTokens(filepath.Join(t.TempDir(), "tokens.json"), TokenOptions{CAHash: func() [32]byte { return [32]byte{} }, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	make := func(node string) string {
		t.Helper()
		secret, _, err := x.Create(node, RoleNode, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return secret.Text()
	}
	spend := func(token string, ok bool) {
		t.Helper()
		now = now.Add(2 * time.Second)
		if err := x.Spend(token, "vm-7", "10.0.0.7"); (err == nil) != ok || err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("it joins: %v", err)
		}
	}
	first, named, any := make("vm-7"), make("vm-7"), make("")
	spend(first, true)
	now = now.Add(time.Second)
	if err := x.Evict("vm-7"); err != nil {
		t.Fatal(err)
	}
	spend(named, false)
	spend(any, false)
	between := make("vm-7")
	if !x.Expects("vm-7") || x.Expects("vm-8") || x.Expects("") {
		t.Error("whom tokens are for")
	}
	now = now.Add(time.Second)
	if err := errors.Join(x.Ban("vm-7", ""), x.Unban("vm-7")); err != nil {
		t.Fatal(err)
	}
	spend(between, false)
	spend(make("vm-7"), true)
}
