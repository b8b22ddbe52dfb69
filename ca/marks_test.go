package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

func TestACertificateSaysWhoseNodeItIsFor(t *testing.T) {
	a := open(t, t.TempDir(), Options{Now: newClock().now})
	mark := mesh.Mark("vm-1", time.Unix(5, 0))
	chain, err := a.SignFor(t.Context(), "vm-1", request(t, &x509.CertificateRequest{DNSNames: []string{mesh.Mark("vm-2", time.Unix(5, 0))}}, p256(t)), webID, 0, mark)
	must(t, err)
	leaf, err := x509.ParseCertificate(chain[0])
	must(t, err)
	if !slices.Equal(leaf.DNSNames, []string{mark}) || leaf.Subject.String() != "CN="+mark {
		t.Errorf("its names are %v, its subject %s, not %s", leaf.DNSNames, leaf.Subject, mark)
	}
	if id, err := IdentityOf(leaf); err != nil || id != webID {
		t.Errorf("it is of %v, %v", id, err)
	}
}

func TestTheMarksOfThoseSentAwayAreKept(t *testing.T) {
	d := newDesk(t)
	marks := map[string]string{}
	in := func(what, node string) {
		t.Helper()
		d.c.t = d.c.t.Add(time.Second)
		must(t, d.spend(d.create(t, node, 0), node))
		for was, m := range marks {
			if m == d.Mark(node) {
				t.Errorf("%s has the mark of %s", what, was)
			}
		}
		marks[what] = d.Mark(node)
	}
	want := func(what string, of ...string) {
		t.Helper()
		var list []string
		for _, w := range of {
			list = append(list, marks[w])
		}
		slices.Sort(list)
		for range 2 {
			if got := d.Away(); !slices.Equal(got, list) {
				t.Errorf("%s: away are %v, want %v", what, got, list)
			}
			d.reopen(t)
		}
	}
	in("first", "vm-1")
	in("other", "vm-2")
	want("nobody")
	must(t, d.Evict("vm-1"))
	must(t, d.Ban("vm-1", ""))
	want("evicted, then banned", "first")
	must(t, d.Unban("vm-1"))
	in("second", "vm-1")
	want("it joined again", "first")
	in("replaced by", "vm-1")
	want("another host joined in its place", "first", "second")
	d.c.t = d.c.t.Add(defaultKeepAway + time.Second)
	want("long after")
	for i := range maxAway + 10 {
		d.c.t = d.c.t.Add(time.Second)
		must(t, d.Evict(fmt.Sprintf("vm-%d", 10+i)))
	}
	if list := d.Away(); len(list) != maxAway || !slices.Contains(list, d.Mark(fmt.Sprintf("vm-%d", 10+maxAway+9))) || slices.Contains(list, d.Mark("vm-10")) {
		t.Errorf("of many there are %d, not the newest %d", len(list), maxAway)
	}
}
