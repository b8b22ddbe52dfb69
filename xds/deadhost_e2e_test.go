//go:build e2e

package xds

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// A host that is unplugged sends no reset: all that may be lost is what was on
// its way to it, and only for a moment.
func TestDeadHost(t *testing.T) {
	if os.Getenv("KR_XDS_INSIDE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestDeadHost$", "-test.v")
		cmd.Env = append(os.Environ(), "KR_XDS_INSIDE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("in a namespace of its own: %v", err)
		}
		t.Logf("%s", out)
		return
	}
	sh(t, "ip link set lo up; for i in 1 2; do ip addr add 10.98.0.$i/32 dev lo; done")
	for _, c := range []struct {
		name     string
		protocol mesh.Protocol
		mtls     mesh.MTLS
	}{
		{"http", mesh.ProtocolHTTP, mesh.MTLSStrict},
		{"undeclared", mesh.ProtocolUnknown, mesh.MTLSStrict},
		{"permissive", mesh.ProtocolHTTP, mesh.MTLSPermissive},
	} {
		t.Run(c.name, func(t *testing.T) { deadHost(t, c.protocol, c.mtls) })
	}
}

func deadHost(t *testing.T, protocol mesh.Protocol, mtls mesh.MTLS) {
	ca := newTestCA(t)
	policy := testPolicy("api", 8080, "web")
	var at []netip.AddrPort
	var counts [2]atomic.Int64
	var dead atomic.Int64
	ports := freePorts(t, 4)
	for i, host := range []string{"10.98.0.1", "10.98.0.2"} {
		listen := netip.AddrPortFrom(netip.MustParseAddr(host), ports[i])
		app, _ := listenOn(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(5 * time.Millisecond)
			counts[i].Add(1)
			fmt.Fprint(w, i)
		}))
		in := testInbound("api", ports[i], 8080, protocol, policy)
		in.MTLS = mtls
		d := destination(ca, in, app)
		d.Node.Accept[0].Listen = listen
		startEnvoy(t, ca, d)
		at = append(at, listen)
	}
	up := testUpstream("api", 8080, protocol, at...)
	up.Ports[0].Clusters[0].MTLS = mtls
	startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[2]: up}))

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 10 * time.Second}
	var wg sync.WaitGroup
	var lost, slow, last atomic.Int64
	began := time.Now()
	for i := range 400 { // 100 a second
		time.Sleep(time.Until(began.Add(time.Duration(i) * 10 * time.Millisecond)))
		if i == 100 {
			sh(t, "iptables -I OUTPUT -d 10.98.0.2 -j DROP; iptables -I OUTPUT -s 10.98.0.2 -j DROP")
			dead.Store(time.Now().UnixNano())
		}
		wg.Go(func() {
			start := time.Now()
			res, err := client.Get("http://" + local(ports[2]).String())
			if err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			if took := time.Since(start); took > time.Second {
				slow.Add(1)
			}
			if err != nil || res.StatusCode != 200 {
				lost.Add(1)
				last.Store(max(last.Load(), start.UnixNano()-dead.Load()))
			}
		})
	}
	wg.Wait()
	sh(t, "iptables -F OUTPUT")
	t.Logf("lost %d of 400, the last one sent %v after the host died; %d took over a second; answered by each %d, %d",
		lost.Load(), time.Duration(last.Load()), slow.Load(), counts[0].Load(), counts[1].Load())
	if counts[1].Load() < 40 {
		t.Error("the host that dies got no share before")
	}
	if time.Duration(last.Load()) > time.Second {
		t.Errorf("a call sent %v after the host's death was lost", time.Duration(last.Load()))
	}
}
