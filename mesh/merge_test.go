package mesh

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

type hasTag string

func (h hasTag) Match(in *Instance) bool { return slices.Contains(in.Tags, string(h)) }

var (
	testNames = []string{"api", "web", "batch-a", "batch-b", "Legacy"}
	readOpts  = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}
)

func one[T any](t *rapid.T, list ...T) T { return rapid.SampledFrom(list).Draw(t, "x") }

func drawTestPart(t *rapid.T) Part {
	name := one(t, testNames...)
	svc := ServiceName(name)
	p := Part{Source: one(t, "consul", "nomad"), Scope: name}
	n := rapid.IntRange(0, 3).Draw(t, "n")
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0, 1:
		for i := range n {
			p.Instances = append(p.Instances, Instance{
				Service: svc, Source: p.Source, ID: one(t, "a", "b", fmt.Sprint(i)), Node: one(t, "", "n1", "n2"),
				Addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 3).Draw(t, "a"))}), one[uint16](t, 0, 80, 8080)),
				Protocol: one[Protocol](t, "", "http", "tcp"), Tags: one(t, nil, []string{"v1"}, []string{"bad\n"}), Health: one(t, Healthy, Draining),
			})
		}
	case 2:
		p.Source = "members"
		for range n {
			p.Members = append(p.Members, Member{Service: svc, Node: one(t, "n1", "n2"), Ports: one(t, nil, []uint16{80})})
		}
	case 3:
		p.Source = "vips"
		for i := range min(n, 2) {
			p.VIPs = append(p.VIPs, VIP{svc, netip.AddrFrom4([4]byte{240, 0, 0, byte(i)})})
		}
	case 4:
		p.Source, p.Scope = "retained", ""
		for range n {
			p.Retained = append(p.Retained, Pair{svc, ServiceName(one(t, testNames...))})
		}
	case 5:
		p.Source, p.Scope, p.Bundle = "ca", "", []byte(one(t, "", "one", "two\n"))
		p.Away = one(t, nil, []string{"b", "a"}, []string{"a", "a"})
	case 6:
		p.Source = "served"
		for range min(n, 1) {
			p.Served = []Served{{svc, one[Protocol](t, "", "http"), []ServedPort{{one[uint16](t, 80, 8080), one[Protocol](t, "", "tcp")}}}}
		}
	default:
		drawTestFile(t, &p, n)
	}
	return p
}

func drawTestFile(t *rapid.T, p *Part, n int) {
	p.Source, p.Scope = "file", one(t, "", "second")
	if one(t, true, false) {
		p.Mesh = &Config{DefaultIntention: one(t, ActionUnset, ActionAllow), TrustDomain: one(t, "", "prod.example")}
		p.Defaults = []Defaults{{Label: one(t, "*", "batch-*", "api"), Tuning: Tuning{Protocol: one[Protocol](t, "", "http"), Timeout: new(time.Second)}}}
	}
	for i := range n {
		name := ServiceName(one(t, "api", "web", "batch-a"))
		s := ServiceConfig{Name: name, DefaultIntention: one(t, ActionUnset, ActionAllow), Pos: Pos{"f", i + 1, 1}}
		if one(t, true, false) {
			s.Ports = one(t, nil, []Port{{Number: 9090}}, []Port{{Name: "http", Number: 80}, {Name: "admin", Number: 9090}})
			ref := SourceRef{Kind: "consul", Service: one(t, testNames...)}
			if one(t, true, false) {
				ref.Filter, ref.Match = "v1", hasTag("v1")
			}
			s.Sources = append(s.Sources, ref)
		}
		p.Services = append(p.Services, s)
		p.Routes = append(p.Routes, Route{Service: name, Pos: Pos{"f", i + 1, 1}})
		p.Intentions = append(p.Intentions, Intention{Label: one(t, "*", "batch-*", "api", "web"), Rules: []Permission{{
			Action: one(t, ActionAllow, ActionDeny), From: []string{one(t, "*", "batch-*", "web", "ghost")},
		}}})
	}
}

// reads is all that a snapshot says, key by key.
func reads(s *Snapshot) map[Key]any {
	m := map[Key]any{
		{KindMesh, ""}: s.Config(), {KindDefaults, ""}: s.Defaults(), {KindBundle, ""}: string(s.Bundle()), {KindAway, ""}: s.Away(),
		{KindServices, ""}: s.Services(), {KindPatterns, ""}: s.Patterns(), {KindCallers, ""}: s.CallerPatterns(), {KindOpen, ""}: s.Open(),
	}
	for _, n := range append([]string{"*", "batch-*", "ghost"}, testNames...) {
		m[Key{KindService, n}] = s.Service(ServiceName(n))
		m[Key{KindInstances, n}] = s.Instances(ServiceName(n))
		m[Key{KindRoute, n}] = s.Route(ServiceName(n))
		m[Key{KindIntention, n}] = s.Labelled(n)
		m[Key{KindCaller, n}] = s.Naming(n)
	}
	for _, n := range []string{"n1", "n2"} {
		m[Key{KindNode, n}] = s.Node(n)
	}
	return m
}

// However a snapshot came about, it reads like the merge of its final parts in
// any order, and the keys that With and Diff list are exactly those that read
// differently.
func TestWithIsMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Snapshot{}
		final := map[string]Part{}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			var batch []Part
			for range rapid.IntRange(1, 3).Draw(t, "batch") {
				p := drawTestPart(t)
				batch = append(batch, p)
				final[partKey(p)] = p
			}
			before := reads(s)
			next, keys := s.With(batch...)
			if again := reads(s); !reflect.DeepEqual(before, again) {
				d := cmp.Diff(before, again, readOpts)
				t.Fatalf("With changed the snapshot it was called on:\n%s", d)
			}
			after := reads(next)
			var want []Key
			for k := range after {
				if !reflect.DeepEqual(before[k], after[k]) && !cmp.Equal(before[k], after[k], readOpts) {
					want = append(want, k)
				}
			}
			slices.SortFunc(want, Key.Compare)
			if d := cmp.Diff(want, keys, readOpts); d != "" {
				t.Fatalf("keys of With (-differences +keys):\n%s", d)
			}
			if d := cmp.Diff(want, Diff(s, next), readOpts); d != "" {
				t.Fatalf("Diff (-differences +keys):\n%s", d)
			}
			s = next
		}
		var parts []Part
		for _, p := range final {
			parts = append(parts, p) // in the map's random order
		}
		full, conflicts := Merge(parts...)
		if d := cmp.Diff(reads(full), reads(s), readOpts); d != "" {
			t.Fatalf("With differs from Merge (-merge +with):\n%s", d)
		}
		if d := cmp.Diff(conflicts, s.Conflicts(), readOpts); d != "" {
			t.Fatalf("conflicts differ (-merge +with):\n%s", d)
		}
	})
}

// equalInstance is written out for speed; no field may be missing from it.
func TestEqualInstanceSeesEveryField(t *testing.T) {
	typ := reflect.TypeFor[Instance]()
	for i := range typ.NumField() {
		var a, b Instance
		f := reflect.ValueOf(&b).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Uint8, reflect.Uint32:
			f.SetUint(1)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		case reflect.Map:
			f.Set(reflect.MakeMap(f.Type()))
			f.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(f.Type().Elem()))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Struct:
			switch f.Interface().(type) {
			case netip.AddrPort:
				f.Set(reflect.ValueOf(netip.MustParseAddrPort("1.2.3.4:5")))
			case Locality:
				f.Set(reflect.ValueOf(Locality{Zone: "x"}))
			case Pos:
				f.Set(reflect.ValueOf(Pos{Line: 1}))
			}
		}
		if reflect.DeepEqual(a, b) {
			t.Fatalf("the test does not know how to set %s", typ.Field(i).Name)
		}
		if equalInstance(&a, &b) {
			t.Errorf("equalInstance does not look at %s", typ.Field(i).Name)
		}
	}
}

func TestTreeHasAShapeOfItsContentAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]int{}
		var tr tree[int]
		for range rapid.IntRange(0, 60).Draw(t, "edits") {
			k := one(t, "a", "ab", "ab\x00c", "b", "ba", "bab", "c", "")
			old, n := tr, len(want)
			if v := rapid.IntRange(0, 3).Draw(t, "v"); v == 0 {
				tr = tr.without(k)
				delete(want, k)
			} else {
				tr = tr.with(k, v)
				want[k] = v
			}
			count := 0
			old.all(func(string, int) { count++ })
			if count != n {
				t.Fatal("an edit changed the tree before it")
			}
		}
		var again tree[int]
		for k, v := range want {
			again = again.with(k, v)
			if tr.get(k) != v {
				t.Fatalf("get(%q) = %d, want %d", k, tr.get(k), v)
			}
		}
		if !reflect.DeepEqual(tr, again) {
			t.Fatal("the same content has two shapes")
		}
		var got, sorted []string
		tr.scan("ab", func(rest string, _ int) { got = append(got, "ab"+rest) })
		for k := range want {
			if strings.HasPrefix(k, "ab") {
				sorted = append(sorted, k)
			}
		}
		slices.Sort(sorted)
		if !slices.Equal(got, sorted) {
			t.Fatalf("scan gives %q, want %q", got, sorted)
		}
	})
}

// big is a mesh of n services of two instances on two nodes each.
func big(n int) *Snapshot {
	parts := []Part{{Source: "ca", Bundle: bytes.Repeat([]byte("x"), 1000)}}
	for i := range n {
		parts = append(parts, bigPart(i, Healthy))
	}
	s, _ := Merge(parts...)
	return s
}

func bigPart(i int, h Health) Part {
	name := fmt.Sprint("svc-", i)
	p := Part{Source: "consul", Scope: name}
	for j := range 2 {
		p.Instances = append(p.Instances, Instance{
			Service: ServiceName(name), ID: fmt.Sprint(name, "-", j), Source: "consul", Node: fmt.Sprint("node-", i, "-", j), Health: h,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)}), 8080), Tags: []string{"v1"}, Meta: map[string]string{"version": "v1"},
		})
	}
	return p
}

// BenchmarkWith is one instance's health changing in a mesh of S services.
func BenchmarkWith(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint("S=", n), func(b *testing.B) {
			s := big(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s, _ = s.With(bigPart(7, Health(i%2)))
			}
		})
	}
}
