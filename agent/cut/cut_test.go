package cut

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

func ports(list []netip.AddrPort) (out []int) {
	for _, a := range list {
		out = append(out, int(a.Port()))
	}
	slices.Sort(out)
	return out
}

func wantCut(t *testing.T, k *fakeKernel, what string, want ...int) {
	t.Helper()
	if got := ports(k.destroyed); !slices.Equal(got, want) {
		t.Errorf("%s: cut are %v, want %v", what, got, want)
	}
}

func TestALostRightCutsThatCallerAlone(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("web", "ops"))
	p.take([]event{from(1, "web"), from(2, "ops"), from(3, "web"), asking(from(4, "web"), 1, "GET", "/a"), asking(from(5, "ops"), 1, "GET", "/a")})
	tell(t, p, "", allow("*"))
	wantCut(t, k, "a wider right")
	tell(t, p, "", allow("ops"))
	wantCut(t, k, "web lost its right", 1, 3, 4)
	if c := p.Counts(); c != (Counts{Open: 2, Cut: 3}) {
		t.Errorf("counted: %+v", c)
	}
	tell(t, p, "")
	wantCut(t, k, "ops lost it, too", 1, 2, 3, 4, 5)
}

func TestTheLogSaysWhoAndWhoseRuleOnceACaller(t *testing.T) {
	var log strings.Builder
	p, _ := testProxy()
	p.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	tell(t, p, "", allow("*"))
	for i := range uint16(50) {
		p.take([]event{from(1+2*i, "web"), asking(from(2+2*i, "web"), 1, "GET", "/"), from(1000+i, "ops")})
	}
	tell(t, p, "", allow("*"), mesh.Permission{Action: mesh.ActionDeny, Name: "web-out", From: []string{"web"}})
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
	for _, want := range []string{"/svc/web", "web-out", "connections=100", "calls=50", "proxy=api/vm-1", "destination=api"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is missing in %s", want, log.String())
		}
	}
}

func TestWhatWasLetInAMomentBeforeIsCutWhenItIsToldOf(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("ops"))
	p.take([]event{from(1, "web"), from(2, "ops"), asking(from(3, "web"), 1, "GET", "/")})
	wantCut(t, k, "told of after the change", 1, 3)
}

// A node that was sent away loses what it holds, whatever its service may do, and
// other nodes of the service nothing.
func TestANodeThatWasSentAwayIsCut(t *testing.T) {
	p, k := testProxy()
	gone, stays := mesh.Mark("vm-1", time.Unix(1, 0)), mesh.Mark("vm-1", time.Unix(2, 0))
	marked := func(e event, mark string) event { e.mark = mark; return e }
	rules := policy.RulesOf([]*mesh.Intention{{Label: "api", Open: "finish", Rules: []mesh.Permission{allow("*")}}}, mesh.ActionDeny, "api", "")
	p.Shown(secretType, testRules, textBody(rules.Text()))
	p.judgeAll()
	p.take([]event{
		marked(from(1, "web"), gone), marked(from(2, "web"), stays), from(3, "web"), from(4, ""),
		marked(asking(from(5, "web"), 1, "GET", "/"), gone), marked(asking(from(6, "web"), 1, "GET", "/"), stays),
	})
	wantCut(t, k, "nobody was sent away")
	rules.Away = []string{gone}
	p.Shown(secretType, testRules, textBody(rules.Text()))
	p.judgeAll()
	wantCut(t, k, "one was", 1, 5)
	p.take([]event{marked(from(7, "web"), gone), marked(from(8, "web"), stays)})
	wantCut(t, k, "it comes again", 1, 5, 7)
	p.take([]event{marked(ended(asking(from(9, "web"), 1, "GET", "/")), gone), marked(ended(asking(from(10, "web"), 1, "GET", "/")), stays), marked(ended(from(11, "web")), gone)})
	wantCut(t, k, "a call on an idle connection was refused", 1, 5, 7, 9)
	p.take([]event{marked(asking(from(6, "web"), 2, "GET", "/"), gone)})
	wantCut(t, k, "another connection from the same port", 1, 5, 6, 7, 9)
}

// A port that is gone is drained, and only who was sent away is cut there.
func TestAPortThatIsGone(t *testing.T) {
	p, k := testProxy()
	mark := mesh.Mark("vm-1", time.Unix(1, 0))
	tell(t, p, "", allow("*"))
	e := from(1, "web")
	e.mark = mark
	p.take([]event{e, from(2, "web")})
	p.Shown(secretType, testRules, nil)
	p.judgeAll()
	wantCut(t, k, "the port is gone")
	rules := policy.RulesOf(nil, mesh.ActionDeny, "api", "")
	rules.Away = []string{mark}
	p.Shown(secretType, "open:api:9090", textBody(rules.Text()))
	p.judgeAll()
	wantCut(t, k, "its caller was sent away", 1)
}

func TestAPortThatBecomesStrict(t *testing.T) {
	p, k := testProxy()
	rules := policy.RulesOf([]*mesh.Intention{{Label: "api", Rules: []mesh.Permission{allow("*")}}}, mesh.ActionDeny, "api", "")
	for _, strict := range []bool{false, true} {
		rules.Strict = strict
		p.Shown(secretType, testRules, textBody(rules.Text()))
		p.judgeAll()
		p.take([]event{from(1, ""), asking(from(2, ""), 1, "GET", "/"), from(3, "web"), asking(from(4, "web"), 1, "GET", "/")})
		if !strict {
			wantCut(t, k, "permissive")
		}
	}
	for _, port := range []int{1, 2} {
		if !slices.Contains(ports(k.destroyed), port) {
			t.Errorf("strict: %d is not cut", port)
		}
	}
	if list := ports(k.destroyed); slices.Contains(list, 3) || slices.Contains(list, 4) {
		t.Errorf("strict: cut are %v", list)
	}
}

func TestOnlyRunningCallsCount(t *testing.T) {
	p, k := testProxy()
	read := mesh.Permission{Action: mesh.ActionAllow, From: []string{"web"}, PathPrefix: "/read"}
	tell(t, p, "", allow("web"))
	p.take([]event{
		asking(from(1, "web"), 1, "GET", "/write"), asking(from(1, "web"), 2, "GET", "/read/x"),
		asking(from(2, "web"), 1, "GET", "/read"), asking(from(3, "web"), 1, "GET", "/write"),
		ended(asking(from(1, "web"), 1, "GET", "/write")),
	})
	tell(t, p, "", read)
	wantCut(t, k, "the one whose call is denied now", 3)
	p.take([]event{ended(asking(from(2, "web"), 1, "GET", "/read")), ended(asking(from(9, "web"), 1, "GET", "/read"))})
	tell(t, p, "")
	wantCut(t, k, "an idle connection stays: its next call is refused", 1, 3)
}

func TestFinishLeavesThemOpen(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("web"))
	p.take([]event{from(1, "web"), asking(from(2, "web"), 1, "GET", "/")})
	tell(t, p, "finish")
	wantCut(t, k, "finish")
	p.take([]event{from(3, "web")})
	wantCut(t, k, "told of later")
	tell(t, p, "cut")
	wantCut(t, k, "cut", 1, 2, 3)
}

func TestRulesThatAreNotKnownCutNobody(t *testing.T) {
	var log strings.Builder
	p, k := testProxy()
	p.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	p.take([]event{from(1, "web")}) // before any rules
	tell(t, p, "", allow("web"))
	p.Shown(secretType, testRules, []byte("\xff"))
	p.judgeAll()
	p.Shown(secretType, testRules, nil)
	p.judgeAll()
	p.Shown("type.googleapis.com/other", testRules, []byte("\xff"))
	p.Shown(secretType, "callers:api:8080", []byte("\xff"))
	wantCut(t, k, "no rules")
	if n := strings.Count(log.String(), "cannot be read"); n != 1 {
		t.Errorf("%d times in the log: %s", n, log.String())
	}
}

func TestAnotherCallerAtTheSamePort(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("web", "ops"))
	p.take([]event{from(1, "web")})
	p.take([]event{from(1, "ops")})
	tell(t, p, "", allow("ops"))
	wantCut(t, k, "it is ops's now")
	// Its end was never told, and the port has a connection that nobody spoke of.
	tell(t, p, "", allow("web", "ops"))
	p.take([]event{from(2, "web")})
	for c, peer := range k.alive {
		if peer.Port() == 2 {
			delete(k.alive, c)
			k.alive[c+100] = peer
		}
	}
	tell(t, p, "", allow("ops"))
	wantCut(t, k, "the cookie is another")
	if c := p.Counts(); c.Cut != 0 {
		t.Errorf("counted: %+v", c)
	}
}

func TestNoSocketOfAnotherPortIsTouched(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "")
	e := from(1, "web")
	e.to = netip.MustParseAddrPort("10.0.0.2:22")
	p.take([]event{e})
	wantCut(t, k, "a session of SSH")
	if len(k.alive) != 0 {
		t.Error("its socket was looked for")
	}
}

func TestACallerWithoutACertificate(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("*"))
	p.take([]event{from(1, ""), from(2, "web")})
	tell(t, p, "", allow("web", "w*"))
	wantCut(t, k, "only * names it", 1)
	e := from(3, "")
	e.uri = "spiffe://test.example/strange"
	p.take([]event{e})
	wantCut(t, k, "a certificate that is not read", 1)
}

func TestWhatTheKernelRefusesIsSaidOnceAndTriedAgain(t *testing.T) {
	var log strings.Builder
	p, k := testProxy()
	p.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	k.fails = errDenied
	tell(t, p, "")
	p.take([]event{from(1, "web"), from(2, "web")})
	if c := p.Counts(); c.Failed != 2 || c.Cut != 0 {
		t.Errorf("counted: %+v", c)
	}
	if n := strings.Count(log.String(), errDenied.Error()); n != 1 {
		t.Errorf("%d times in the log: %s", n, log.String())
	}
	k.fails = nil
	p.take([]event{from(1, "web")}) // Envoy tells of it again
	wantCut(t, k, "later", 1)
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	p, _ := testProxy()
	tell(t, p, "", allow("web"))
	const share = maxCalls / 2
	for i := range share + 5 {
		p.take([]event{asking(from(1, "web"), int64(i), "GET", "/")})
	}
	if p.all.calls != share || p.counts.Unwatched != 5 {
		t.Errorf("%+v, %+v", p.all, p.Counts())
	}
	p.take([]event{asking(from(2, "web"), 1, "GET", "/")})
	if c := p.Counts(); c.Open != 1 || c.Unwatched != 6 {
		t.Errorf("a connection without a call is remembered: %+v", c)
	}
	for i := range share {
		p.take([]event{ended(asking(from(1, "web"), int64(i), "GET", "/"))})
	}
	if p.all != (usage{}) || len(p.by)+len(p.open) != 0 {
		t.Errorf("left are %+v, of callers %v, %d connections", p.all, p.by, len(p.open))
	}
}

// A caller that may call must not keep others' calls, or its own, from being cut
// by filling the memory of what is open.
func TestNoCallerFillsTheMemoryAlone(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("*"))
	long := "/" + strings.Repeat("x", 56<<10)
	fill := func(who string, first int) {
		for i := range 2 * maxCallBytes / len(long) {
			p.take([]event{asking(from(uint16(first+i), who), 1, "GET", long)})
		}
	}
	fill("evil", 1)
	fill("worse", 10_000)
	if p.all.bytes > maxCallBytes*4/5 || p.counts.Unwatched == 0 {
		t.Errorf("%+v are remembered, %+v", p.all, p.counts)
	}
	p.take([]event{asking(from(40_001, "web"), 1, "GET", "/x"), from(40_002, "web")})
	tell(t, p, "", allow("evil", "worse"))
	wantCut(t, k, "beside a full memory", 40_001, 40_002)
	tell(t, p, "", allow("worse"))
	k.destroyed = nil
	p.take([]event{asking(from(50_001, "worse"), 1, "GET", "/x"), asking(from(50_002, "evil"), 1, "GET", long)})
	fill("worse", 10_000)
	p.take([]event{asking(from(50_003, "web"), 1, "GET", long)})
	wantCut(t, k, "told of when there may be no room", 50_002, 50_003)
}

func TestNoRoomIsNoRight(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("ops"))
	p.use(mesh.ServiceIdentity("test.example", "web"), usage{maxConnections, maxCalls, maxCallBytes})
	p.take([]event{from(1, "web"), asking(from(2, "web"), 1, "GET", "/"), from(3, "ops"), asking(from(4, "ops"), 1, "GET", "/")})
	wantCut(t, k, "what is not remembered is judged", 1, 2)
	if c := p.Counts(); c.Open != 0 || c.Unwatched != 4 {
		t.Errorf("%+v", c)
	}
}

// What a proxy's user can make up must fill neither the memory nor the log.
func TestForgedLogsAreSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		p, _ := testProxy()
		p.log = hclog.New(&hclog.LoggerOptions{Output: &log})
		forge := func(n int) {
			for i := range n {
				e := from(1, "")
				e.uri = fmt.Sprintf("spiffe://td/svc/%d%s", i, strings.Repeat("y", 2000))
				p.take([]event{e})
			}
		}
		forge(1000)
		if n := strings.Count(log.String(), "\n"); n != 1 || len(p.said) != 1 || log.Len() > 1000 {
			t.Errorf("%d lines, %d bytes, %d remembered", n, log.Len(), len(p.said))
		}
		time.Sleep(sayAgain)
		forge(2)
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines after %s", n, sayAgain)
		}
	})
}

func TestConnectionsThatAreNoMoreAreForgotten(t *testing.T) {
	p, k := testProxy()
	tell(t, p, "", allow("web"))
	p.take([]event{from(1, "web"), asking(from(2, "web"), 1, "GET", "/")})
	p.prune()
	if c := p.Counts(); c.Open != 2 {
		t.Errorf("%+v", c)
	}
	clear(k.alive)
	p.prune()
	if c := p.Counts(); c.Open != 0 || p.all != (usage{}) {
		t.Errorf("%+v, %+v", c, p.all)
	}
	k.missing = true
	p.take([]event{from(3, "web")})
	if c := p.Counts(); c.Open != 0 {
		t.Errorf("one that the kernel does not know is remembered: %+v", c)
	}
}

// Whatever happens in whatever order: what is left open may be, and what was cut
// might not have stayed.
func TestWhatIsOpenIsWhatMayBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, k := testProxy()
		names := []string{"web", "ops", "batch"}
		var may map[string]bool
		finish := false
		has := map[uint16]string{} // by port: who has a TCP connection there
		now := time.Unix(1, 0)
		connection := func(port uint16, who string) event {
			e := from(port, who)
			e.began = now
			return e
		}
		rules := func() {
			may = map[string]bool{}
			var list []mesh.Permission
			for _, n := range names {
				if may[n] = rapid.Bool().Draw(t, n); may[n] {
					list = append(list, allow(n))
				}
			}
			open := ""
			if finish = rapid.IntRange(0, 4).Draw(t, "finish") == 0; finish {
				open = "finish"
			}
			tellT(p, open, list...)
		}
		rules()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			port := uint16(rapid.IntRange(1, 6).Draw(t, "port"))
			switch who := has[port]; {
			case rapid.IntRange(0, 3).Draw(t, "step") == 0:
				rules()
			case who == "":
				has[port] = rapid.SampledFrom(names).Draw(t, "who")
				now = now.Add(time.Second)
				p.take([]event{connection(port, has[port])})
			default:
				for c, peer := range k.alive {
					if peer.Port() == port {
						delete(k.alive, c)
					}
				}
				delete(has, port)
				if rapid.Bool().Draw(t, "told") {
					p.take([]event{ended(from(port, who))})
				}
			}
			for _, peer := range k.destroyed {
				if who := has[peer.Port()]; who == "" || may[who] || finish {
					t.Fatalf("cut: %s of %q; it may stay", peer, who)
				}
				delete(has, peer.Port())
			}
			k.destroyed = nil
			for port, who := range has {
				if !may[who] && !finish {
					t.Fatalf("open: port %d of %s, which may not", port, who)
				}
			}
		}
	})
}

func TestCallersInTheLogHaveNames(t *testing.T) {
	if got := name(mesh.Identity{}); got != "without a certificate" {
		t.Error(got)
	}
	if got := fmt.Sprint(name(mesh.ServiceIdentity("x", "web"))); got != "spiffe://x/svc/web" {
		t.Error(got)
	}
}
