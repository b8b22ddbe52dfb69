//go:build e2e

package xds

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// Clusters, endpoints, routes and rules change under load: no call is lost and no
// listener is touched.
func TestChangesUnderLoadLoseNothing(t *testing.T) {
	ca := newTestCA(t)
	ports := freePorts(t, 4)
	slowly := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(3 * time.Millisecond)
		fmt.Fprint(w, "ok")
	})
	rules := func(names ...string) *plan.Policy { return testPolicy("api", 8080, append(names, "web")...) }
	var apps [2]uint16
	var apis [2]*runningEnvoy
	inbound := func(i int, p *plan.Policy) *plan.Proxy {
		return destination(ca, testInbound("api", ports[i], 8080, mesh.ProtocolHTTP, p), apps[i])
	}
	for i := range apis {
		apps[i], _ = listenOn(t, slowly)
		apis[i] = startEnvoy(t, ca, inbound(i, rules()))
	}
	up := func(i int) *plan.Upstream {
		u := testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]), local(ports[1]))
		c := u.Ports[0].Clusters[0]
		switch i % 4 {
		case 1:
			c.Limits.MaxConnections = pointer(uint32(1000 + i))
		case 2:
			c.Endpoints.Groups[0].Endpoints = c.Endpoints.Groups[0].Endpoints[:1]
		case 3:
			u.Ports[0].Route.Rules[0].RequestHeaders = &mesh.HeaderOps{Set: map[string]string{"x-n": fmt.Sprint(i)}}
		}
		return u
	}
	web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[2]: up(0)}))
	reloads := func(e *runningEnvoy) uint64 {
		s, err := e.admin.Stats(t.Context(), `listener_manager.listener_(modified|in_place_updated|added|removed)|total_filter_chains_draining`)
		if err != nil || len(s) == 0 {
			t.Fatal(s, err)
		}
		return sum(s)
	}
	before := []uint64{reloads(web), reloads(apis[0]), reloads(apis[1])}

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}, Timeout: 5 * time.Second}
	var wg sync.WaitGroup
	var lost, done atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Get("http://" + local(ports[2]).String())
				if err != nil {
					lost.Add(1)
					t.Log(err)
					continue
				}
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					lost.Add(1)
					t.Log(res.StatusCode, string(b))
				}
				done.Add(1)
			}
		})
	}
	for i := range 40 {
		web.apply(t, caller("web", map[uint16]*plan.Upstream{ports[2]: up(i)}))
		apis[i%2].apply(t, inbound(i%2, rules(fmt.Sprintf("other-%d", i))))
		at := done.Load() // each change is seen by some calls
		eventually(t, 5*time.Second, func() error {
			if done.Load() < at+50 {
				return fmt.Errorf("only %d calls since the change", done.Load()-at)
			}
			return nil
		})
	}
	close(stop)
	wg.Wait()
	t.Logf("%d calls, %d lost, 80 changes", done.Load(), lost.Load())
	if lost.Load() > 0 {
		t.Errorf("%d of %d calls were lost", lost.Load(), done.Load())
	}
	for i, e := range []*runningEnvoy{web, apis[0], apis[1]} {
		if n := reloads(e); n != before[i] {
			t.Errorf("listeners were touched %d times", n-before[i])
		}
		e.clean(t)
	}
}
