//go:build e2e

package capture

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// A record that is not where it is looked for (data_dir was moved) does not hide
// the rules: they are named, and queries that nobody answers go where they did.
func TestRulesWithoutARecord(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		elsewhere := r.o
		elsewhere.StateDir = t.TempDir() + "/moved/capture"
		ask := func() (bool, *Unrecorded) {
			t.Helper()
			orphan, err := New(elsewhere).RemoveOrphaned(context.Background())
			var u *Unrecorded
			if err != nil && !errors.As(err, &u) {
				t.Fatal(err)
			}
			return orphan, u
		}
		if orphan, u := ask(); orphan || u != nil {
			t.Errorf("where nothing is captured: %v, %v", orphan, u)
		}
		if r.listingOf() != before {
			t.Error("a look changed the tables")
		}
		r.envoys("")
		r.apply(r.config())
		rules := func() (queries, calls int) {
			all := sh(t, "iptables-"+r.backend+" -t nat -S; ip6tables-"+r.backend+" -t nat -S")
			return strings.Count(all, "--to-ports 15053"), strings.Count(all, "--to-ports 15001")
		}
		queries, calls := rules()
		if queries == 0 || calls == 0 {
			t.Fatalf("applied: %d rules of queries, %d of calls", queries, calls)
		}
		r.answer("", "127.0.0.1:15053", "kg\x81 is how an answer to the probe begins")
		if orphan, u := ask(); !orphan || u == nil || !strings.Contains(u.Error(), "KEREGE_OUT") || !strings.Contains(u.Error(), elsewhere.StateDir) {
			t.Errorf("no record: orphan %v, %v", orphan, u)
		}
		if q, c := rules(); q != queries || c != calls {
			t.Errorf("names are answered, and %d of %d rules of queries and %d of %d of calls are left", q, queries, c, calls)
		}
	})
}

// Nobody answers: the queries' rules go, those of calls stay.
func TestRulesWithoutARecordAndWithoutAResolver(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		r.apply(r.config())
		elsewhere := r.o
		elsewhere.StateDir = t.TempDir() + "/moved/capture"
		for range 2 { // a second time finds nothing more to do
			orphan, err := New(elsewhere).RemoveOrphaned(context.Background())
			var u *Unrecorded
			if !orphan || !errors.As(err, &u) {
				t.Fatalf("orphan %v, %v", orphan, err)
			}
			all := sh(t, "iptables-"+r.backend+" -t nat -S; ip6tables-"+r.backend+" -t nat -S")
			if strings.Contains(all, "15053") || !strings.Contains(all, "15001") {
				t.Errorf("left:\n%s", all)
			}
		}
		// The one who has the record mends it, or takes all out.
		r.apply(r.config())
		if all := sh(t, "iptables-"+r.backend+" -t nat -S"); !strings.Contains(all, "15053") {
			t.Errorf("not mended:\n%s", all)
		}
	})
}
