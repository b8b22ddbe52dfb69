package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kerege/kerege/mesh"
)

// script is a source that says what the test puts into it.
type script struct {
	name   string
	say    chan mesh.Part
	fail   chan error
	report atomic.Pointer[mesh.SourceReport]
	starts atomic.Int32
}

func newScript(name string) *script {
	return &script{name: name, say: make(chan mesh.Part), fail: make(chan error)}
}

func (s *script) Name() string { return s.name }

func (s *script) Watch(ctx context.Context, out chan<- mesh.Part) error {
	s.starts.Add(1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.fail:
			return err
		case p := <-s.say:
			select {
			case out <- p:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

type reporting struct{ *script }

func (r reporting) Report() mesh.SourceReport { return *r.report.Load() }

func instances(service string, n int) mesh.Part {
	p := mesh.Part{Scope: service}
	for i := range n {
		p.Instances = append(p.Instances, mesh.Instance{
			Service: mesh.ServiceName(service), ID: fmt.Sprint(service, i), Source: "consul", Node: "vm-1", Weight: 1,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80),
		})
	}
	return p
}

var done = mesh.Part{}

// pass lets a bubble's hub collect and apply.
func pass() {
	time.Sleep(20 * time.Millisecond)
	synctest.Wait()
}

type rig struct {
	*Hub
	t    *testing.T
	stop context.CancelFunc
	ran  chan error
}

func start(t *testing.T, opt Options, sources ...Source) *rig {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &rig{Hub: New(opt), t: t, stop: stop, ran: make(chan error, 1)}
	go func() { r.ran <- r.Run(ctx, sources...) }()
	return r
}

func (r *rig) close() {
	r.t.Helper()
	r.stop()
	if err := <-r.ran; err != nil {
		r.t.Errorf("Run: %v", err)
	}
}

func (r *rig) isReady() bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

func (r *rig) want(n int, service string) {
	r.t.Helper()
	if got := len(r.Snapshot().Instances(mesh.ServiceName(service))); got != n {
		r.t.Errorf("%s has %d instances, want %d", service, got, n)
	}
}

func TestNothingIsPublishedBeforeEverySourceHasSpoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newScript("consul"), newScript("nomad")
		r := start(t, Options{}, a, b)
		defer r.close()
		a.say <- instances("api", 2)
		a.say <- done
		time.Sleep(time.Hour)
		if r.isReady() || len(r.Snapshot().Services()) > 0 {
			t.Fatal("published although nomad has not spoken")
		}
		if got := r.Waiting(); got != "waiting for nomad: it has not spoken yet" {
			t.Errorf("Waiting: %q", got)
		}
		b.say <- done
		pass()
		if !r.isReady() {
			t.Fatal("not ready although all have spoken")
		}
		r.want(2, "api")
		_, keys := r.Take()
		if !slices.Contains(keys, mesh.Key{Kind: mesh.KindInstances, Name: "api"}) {
			t.Errorf("the first Take has the keys %v", keys)
		}
		if _, again := r.Take(); len(again) > 0 {
			t.Errorf("a second Take has %v", again)
		}
	})
}

func TestAnIdleHubAppliesAtOnceAndABusyOneCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{})
		defer r.close()
		synctest.Wait()
		time.Sleep(time.Second)
		began := time.Now()
		published := 0
		for i := range 100 { // one each 3 ms: never quiet for 10 ms
			r.Put(mesh.Part{Source: "consul", Scope: fmt.Sprint("s", i), Instances: instances(fmt.Sprint("s", i), 1).Instances})
			synctest.Wait()
			select {
			case <-r.Changes():
				published++
				if d := time.Since(began); published == 1 && d != 0 {
					t.Errorf("the first change waited %v", d)
				}
			default:
			}
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if _, ok := <-r.Changes(); !ok || published < 2 || published > 3 {
			t.Errorf("100 changes in 300 ms were published in %d lots before they ended", published)
		}
		if n := len(r.Snapshot().Services()); n != 100 {
			t.Errorf("%d services of 100", n)
		}
	})
}

func TestAFailingSourceIsStartedAgainAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 2)
		a.say <- done
		a.fail <- errors.New("connection refused")
		pass()
		if s := r.Status()[0]; s.State != mesh.SourceError || s.Err != "connection refused" {
			t.Errorf("status %+v", s)
		}
		r.want(2, "api")
		time.Sleep(2 * time.Second)
		if n := a.starts.Load(); n != 2 {
			t.Errorf("%d starts", n)
		}
		a.say <- instances("api", 3)
		pass()
		r.want(3, "api")
		if s := r.Status()[0]; s.State != mesh.SourceOK || s.Age > time.Second {
			t.Errorf("status %+v", s)
		}
	})
}

// A18: the last-good file stands in after Grace; without one nobody is answered.
func TestLastGoodStandsInForASilentSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := newScript("consul")
		r := start(t, Options{DataDir: dir}, a)
		time.Sleep(time.Hour)
		if r.isReady() {
			t.Fatal("ready without a file and without a word")
		}
		a.say <- instances("api", 4)
		a.say <- instances("gone", 1)
		a.say <- done
		pass()
		r.close()

		b := newScript("consul")
		r = start(t, Options{DataDir: dir}, b)
		time.Sleep(9 * time.Second)
		if r.isReady() {
			t.Fatal("ready before the hold")
		}
		time.Sleep(2 * time.Second)
		if !r.isReady() {
			t.Fatal("not ready although the file stands in")
		}
		r.want(4, "api")
		if s := r.Status()[0]; s.State != mesh.SourceStale || s.Spoken {
			t.Errorf("status %+v", s)
		}
		b.say <- instances("api", 5)
		b.say <- done // "gone" was not repeated
		pass()
		r.want(5, "api")
		time.Sleep(time.Minute)
		r.want(0, "gone")
		r.close()
	})
}

func TestADamagedFileIsRefusedAndKeptAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := newScript("consul")
		r := start(t, Options{DataDir: dir}, a)
		a.say <- instances("api", 4)
		a.say <- done
		pass()
		if err := r.Members().Put(mesh.Member{Service: "api", Node: "vm-1"}); err != nil {
			t.Fatal(err)
		}
		r.close()
		for _, name := range []string{"sources.json", "members.json", "vips.json", "served.json"} {
			path := filepath.Join(dir, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			head, body, _ := bytes.Cut(text, []byte("\n"))
			text = slices.Concat(head, []byte("\n"), bytes.Replace(body, []byte("api"), []byte("apj"), 1)) // still JSON
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b := newScript("consul")
		r = start(t, Options{DataDir: dir}, b)
		time.Sleep(time.Minute)
		if r.isReady() {
			t.Error("ready from a damaged file")
		}
		b.say <- instances("api", 4)
		b.say <- done
		pass()
		if !r.isReady() || len(r.Members().List()) != 0 {
			t.Error("a damaged file is fatal, or believed")
		}
		r.close()
		for _, name := range []string{"sources", "members", "vips", "served"} {
			if kept, _ := filepath.Glob(filepath.Join(dir, name+".json.refused-*")); len(kept) != 1 {
				t.Errorf("%s was not kept aside: %v", name, kept)
			}
		}
	})
}

func TestVirtualAddressesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		run := func(services ...string) map[string]netip.Addr {
			a := newScript("consul")
			r := start(t, Options{DataDir: dir}, a)
			defer r.close()
			for _, s := range services {
				a.say <- instances(s, 1)
			}
			a.say <- done
			time.Sleep(time.Minute)
			got := map[string]netip.Addr{}
			for _, s := range services {
				got[s] = r.Snapshot().Service(mesh.ServiceName(s)).VIP4
				if !netip.MustParsePrefix("240.0.0.0/4").Contains(got[s]) {
					t.Errorf("%s is at %v", s, got[s])
				}
			}
			return got
		}
		first := run("api", "web")
		run("web")
		again := run("api", "web")
		if first["api"] != again["api"] || first["web"] != again["web"] || first["api"] == first["web"] {
			t.Errorf("first %v, later %v", first, again)
		}
		v, err := New(Options{DataDir: t.TempDir()}).loadVIPs()
		if err != nil {
			t.Fatal(err)
		}
		v.taken[first["api"]] = "another"
		if a := v.free("api"); a == first["api"] || !usableVIP(a) {
			t.Errorf("a taken address was given: %v", a)
		}
		if other := New(Options{}); true {
			w, _ := other.loadVIPs()
			if w.free("web") != first["web"] {
				t.Error("two servers disagree on the address of a name")
			}
		}
	})
}

func TestMembersSurviveAndExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := newScript("consul")
		r := start(t, Options{DataDir: dir}, a)
		a.say <- instances("api", 2)
		a.say <- done
		if err := r.Members().Put(mesh.Member{Service: "api", Node: "vm-1", Ports: []uint16{80}}); err != nil {
			t.Fatal(err)
		}
		if err := r.Members().Put(mesh.Member{Service: "A/..", Node: "vm-1"}); err == nil {
			t.Error("a member with a hostile name was taken")
		}
		if err := r.Members().Replace("vm-2", mesh.Member{Service: "api", Node: "vm-1"}); err == nil {
			t.Error("a node's members were replaced in another node's name")
		}
		replaceKeepsTheRest(t, r.Members())
		if err := r.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass()
		in := func(want bool) {
			t.Helper()
			if got := r.Snapshot().Instances("api")[0].In; got != want {
				t.Errorf("in: %v, want %v", got, want)
			}
		}
		in(true)
		r.close()
		b := newScript("consul")
		r = start(t, Options{DataDir: dir}, b)
		b.say <- instances("api", 2)
		b.say <- done
		pass()
		in(true)
		time.Sleep(48 * time.Hour)
		r.Members().Seen("vm-1")
		time.Sleep(48 * time.Hour)
		in(true)
		time.Sleep(25 * time.Hour)
		in(false)
		r.close()
	})
}

func TestALostRightIsRememberedForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := start(t, Options{DataDir: dir})
		rule := func(from ...string) mesh.Part {
			return mesh.Part{Source: "file", Intentions: []mesh.Intention{{Label: "api", Rules: []mesh.Permission{{Action: mesh.ActionAllow, From: from}}}}}
		}
		sees := func(who mesh.ServiceName, want bool) {
			t.Helper()
			time.Sleep(time.Second)
			if got := slices.Contains(r.Snapshot().Destinations(who), "api"); got != want {
				t.Errorf("%s sees api: %v, want %v", who, got, want)
			}
		}
		r.Put(rule("web", "batch-*"))
		sees("web", true)
		r.Put(rule("shop"))
		sees("web", true)
		sees("batch-1", true)
		sees("stranger", false)
		time.Sleep(30 * time.Minute)
		r.close()
		r = start(t, Options{DataDir: dir})
		defer r.close()
		r.Put(rule("shop"))
		sees("web", true)
		time.Sleep(31 * time.Minute)
		sees("web", false)
		sees("batch-1", false)
		sees("shop", true)
	})
}

// replaceKeepsTheRest holds that a node's members are those of the last word and
// that no other node's are touched.
func replaceKeepsTheRest(t *testing.T, m *Members) {
	t.Helper()
	for _, want := range [][]mesh.Member{
		{{Service: "db", Node: "vm-9"}, {Service: "db", Node: "vm-9", Workload: "a1"}},
		{{Service: "db", Node: "vm-9", Workload: "a1"}},
		nil,
	} {
		if err := m.Replace("vm-9", want...); err != nil {
			t.Fatal(err)
		}
		var got []mesh.Member
		others := 0
		for _, r := range m.List() {
			if r.Node == "vm-9" {
				got = append(got, r.Member)
			} else {
				others++
			}
		}
		if !reflect.DeepEqual(got, want) || others != 1 {
			t.Errorf("%v of the node and %d of others, not %v and 1", got, others, want)
		}
	}
}
