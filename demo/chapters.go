package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const apiURL = "http://api.mesh:8080"

// arrive: a server, and three hosts that join.
func (d *telling) arrive(ctx context.Context) error {
	d.begin("A server, and three hosts that join it")
	began := time.Now()
	for _, h := range hosts {
		if _, err := d.t.AddHost(ctx, h.name, h.service, h.version); err != nil {
			return err
		}
	}
	if d.consul {
		if err := d.t.StartConsul(ctx); err != nil {
			return err
		}
		for _, h := range hosts {
			if err := d.t.Register(ctx, d.t.Hosts[h.name]); err != nil {
				return err
			}
		}
		d.note("a real Consul, with web and api registered as plain services: no connect stanza, no proxy")
	}
	d.mesh = meshText(d.t, d.consul, allowWeb)
	if err := d.t.StartServer(ctx, d.mesh); err != nil {
		return err
	}
	for _, h := range hosts {
		begin := time.Now()
		host := d.t.Hosts[h.name]
		if err := host.BringIn(ctx); err != nil {
			return err
		}
		d.note("%-5s %s  %s %s  token, join, Envoy, capture: %.1f s", h.name, host.IP, h.service, h.version, time.Since(begin).Seconds())
	}
	if err := d.t.Hosts["web"].WaitFor(ctx, apiURL+"/", 200, 10*time.Second); err != nil {
		return err
	}
	d.see("kerege status")
	out, code := d.t.Ask(ctx, "status")
	for line := range strings.Lines(out) {
		d.note("%s", strings.TrimRight(line, "\n"))
	}
	if code != 0 || !strings.Contains(out, "3 hosts in the mesh") {
		return fmt.Errorf("status is not as expected (exit %d)", code)
	}
	d.claim("three hosts in the mesh after %.1f s", time.Since(began).Seconds())
	return nil
}

// call: who saw whom.
func (d *telling) call(ctx context.Context) error {
	d.begin("web's program calls http://api.mesh:8080/hello, and knows nothing of a mesh")
	name := "api.mesh"
	if d.consul {
		name = "api.service.consul"
	}
	got, err := d.t.Hosts["web"].Get(ctx, "http://"+name+":8080/hello")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, "200 ") || !strings.Contains(got, "spiffe://demo.example/svc/web") {
		return fmt.Errorf("the call was answered %s", got)
	}
	d.hcl(where(d.mesh, "allow {"), "allow { from = [\"web\"] }")
	d.see("on web curl http://" + name + ":8080/hello")
	d.claim("answered 200; api's program was told who calls: spiffe://demo.example/svc/web")
	peer, err := d.peerIdentity(ctx)
	if err != nil {
		return err
	}
	d.claim("web's Envoy checked who answers: %s", peer)
	return nil
}

// split: a share counted.
func (d *telling) split(ctx context.Context) error {
	d.begin("10 % of /checkout goes to v2")
	r, err := d.t.Hosts["web"].Load(ctx, apiURL+"/checkout", 200, 3*time.Second)
	if err != nil {
		return err
	}
	share := 100 * float64(r.ByServer["v2"]) / float64(max(r.Calls, 1))
	d.hcl(where(d.mesh, `to "api.v2"`), "to \"api.v2\" { weight = 10 }\nto \"api.v1\" {}")
	d.see("kerege explain -from web -to api -path /checkout")
	if r.Failed > 0 || r.Calls < 400 || share < 5 || share > 16 {
		return fmt.Errorf("the split was not so: %+v", r)
	}
	d.claim("%d calls: %d to v1, %d to v2 (%.1f %%), 0 failed; p50 %s", r.Calls, r.ByServer["v1"], r.ByServer["v2"], share, r.P50)
	return nil
}

// killProgram: a program dies, its Envoy lives.
func (d *telling) killProgram(ctx context.Context) error {
	d.begin("One of api's two programs is killed, with calls under way")
	api2 := d.t.Hosts["api2"]
	var killed time.Time
	began := time.Now()
	r, err := d.t.Hosts["web"].LoadDuring(ctx, apiURL+"/", 200, 3*time.Second, func() error {
		time.Sleep(time.Second)
		killed = time.Now()
		api2.Prog.Kill()
		return nil
	})
	if err != nil {
		return err
	}
	d.see("kerege services api")
	if r.ByServer["v2"] == 0 {
		return fmt.Errorf("v2 answered nothing before it was killed: %+v", r)
	}
	const again = "what never reached the program was tried again on the other"
	if r.Failed == 0 {
		d.claim("%d calls, 0 failed: %s (v1 %d, v2 %d)", r.Calls, again, r.ByServer["v1"], r.ByServer["v2"])
		return api2.StartProgram(ctx)
	}
	// A call that the program had taken when it died is answered 503 by design.
	first, err := time.ParseDuration(r.First)
	if err != nil {
		return err
	}
	last, err := time.ParseDuration(r.Last)
	if err != nil {
		return err
	}
	at := killed.Sub(began)
	if first < at-time.Second || last > at+300*time.Millisecond || r.Failed > 4 {
		return fmt.Errorf("%d calls failed, not only what was under way at the kill, %s after the start: %+v", r.Failed, at.Round(time.Millisecond), r)
	}
	d.claim("%d calls, %d failed: the program had it when it died; %s (v1 %d, v2 %d)", r.Calls, r.Failed, again, r.ByServer["v1"], r.ByServer["v2"])
	d.note("such a call is tried again where you say so: retry { on = [\"connect-failure\", \"refused-stream\", \"reset\"] }")
	return api2.StartProgram(ctx)
}

// killHost: the cable is pulled.
func (d *telling) killHost(ctx context.Context) error {
	d.begin("The whole host of v2 is gone: cable pulled, nothing resets")
	web, api2 := d.t.Hosts["web"], d.t.Hosts["api2"]
	if err := d.backBoth(ctx); err != nil {
		return err
	}
	d.note("v2's program, killed before, runs again: v1 and v2 both answer")
	var pulled time.Time
	began := time.Now()
	r, err := web.LoadDuring(ctx, apiURL+"/", 100, 5*time.Second, func() error {
		time.Sleep(1500 * time.Millisecond)
		pulled = time.Now()
		return api2.Unplug()
	})
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		last, err := time.ParseDuration(r.Last)
		if err != nil {
			return err
		}
		if over := last - pulled.Sub(began); over > 1200*time.Millisecond || r.Failed > 100 {
			return fmt.Errorf("calls failed until %s after the cable: %+v", over, r)
		}
		d.claim("%d calls, %d failed, all sent to that host within a second of the pull; the rest went to v1", r.Calls, r.Failed)
	} else {
		d.claim("%d calls, 0 failed", r.Calls)
	}
	if err := api2.Plug(); err != nil {
		return err
	}
	return d.backBoth(ctx)
}

// backBoth waits until both versions answer again.
func (d *telling) backBoth(ctx context.Context) error {
	deadline := time.Now().Add(45 * time.Second)
	for time.Now().Before(deadline) {
		r, err := d.t.Hosts["web"].Load(ctx, apiURL+"/", 50, time.Second)
		if err != nil {
			return err
		}
		if r.ByServer["v1"] > 0 && r.ByServer["v2"] > 0 {
			return nil
		}
	}
	return fmt.Errorf("v2 did not come back within 45 s")
}

// refuse: no intention, no call.
func (d *telling) refuse(ctx context.Context) error {
	d.begin("api's program calls web: no intention lets it")
	got, err := d.t.Hosts["api1"].Get(ctx, "http://web.mesh:8080/")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "intention") {
		return fmt.Errorf("the call was answered %s", got)
	}
	d.see("on api1 curl http://web.mesh:8080/")
	answer := strings.TrimPrefix(got, "403 new ") // a new connection; the body as a Go string
	if body, err := strconv.Unquote(answer); err == nil {
		answer = body
	}
	for line := range strings.Lines(strings.TrimSpace(answer)) {
		d.note("%s", strings.TrimRight(line, "\n"))
	}
	d.note("(DESTINATION is web: an Envoy is told of no service that its own may not call, and cannot name it)")
	d.claim("refused with 403: default_intention is deny, and nothing names api as a caller of web")
	d.hcl("would allow it", "intention \"web\" {\n  allow { from = [\"api\"] }\n}")
	out, code := d.t.Ask(ctx, "explain", "-from", "api", "-to", "web")
	if code != 2 || !strings.Contains(out, "refused") {
		return fmt.Errorf("explain says otherwise (exit %d): %s", code, out)
	}
	return nil
}

// takeAway: the next call on the same open connection.
func (d *telling) takeAway(ctx context.Context) error {
	d.begin("web's right is taken away, with a connection open")
	conn, err := d.t.Hosts["web"].Hold(apiURL)
	if err != nil {
		return err
	}
	defer conn.Close()
	first, err := conn.Call("/before")
	if err != nil || !strings.HasPrefix(first, "200 ") {
		return fmt.Errorf("the first call was answered %s, %v", first, err)
	}
	denied := meshText(d.t, d.consul, denyWeb)
	began := time.Now()
	if err := d.t.Apply(ctx, denied); err != nil {
		return err
	}
	applied := time.Since(began)
	second, err := conn.Call("/after")
	for err == nil && !strings.HasPrefix(second, "403 ") && time.Since(began) < 2*time.Second {
		second, err = conn.Call("/after")
	}
	if err != nil || !strings.HasPrefix(second, "403 reused ") {
		return fmt.Errorf("the next call was answered %s, %v", second, err)
	}
	d.hcl(where(denied, "deny {"), "deny {\n  name = \"closed-for-repairs\"\n  from = [\"web\"]\n}")
	d.see("kerege apply")
	d.claim("the next call on the same connection: 403. Apply to refusal: %d ms (apply itself %d ms)", time.Since(began).Milliseconds(), applied.Milliseconds())
	if err := d.t.Apply(ctx, d.mesh); err != nil {
		return err
	}
	return d.t.Hosts["web"].WaitFor(ctx, apiURL+"/", 200, 5*time.Second)
}

// rotate: a new certificate under a stream.
func (d *telling) rotate(ctx context.Context) error {
	d.begin("Certificates are rotated under a stream that stays open")
	web := d.t.Hosts["web"]
	before, err := web.Serial(ctx)
	if err != nil {
		return err
	}
	stream, err := web.Stream(apiURL + "/stream/3000")
	if err != nil {
		return err
	}
	defer stream.Kill()
	var after string
	began := time.Now()
	for after = before; after == before && time.Since(began) < 45*time.Second; time.Sleep(200 * time.Millisecond) {
		if after, err = web.Serial(ctx); err != nil {
			return err
		}
	}
	if after == before {
		return fmt.Errorf("the certificate %s was not renewed in 45 s", before)
	}
	time.Sleep(time.Second)
	select {
	case <-stream.Done():
		return fmt.Errorf("the stream was cut: %s", stream.Tail(300))
	default:
	}
	got, err := web.Get(ctx, apiURL+"/fresh")
	if err != nil || !strings.HasPrefix(got, "200 ") {
		return fmt.Errorf("a new connection was answered %s, %v", got, err)
	}
	d.see("kerege ca status")
	d.claim("web's certificate %s became %s; the stream went on, a new connection was answered 200", short(before), short(after))
	return nil
}

func short(serial string) string { return serial[:min(len(serial), 8)] + "…" }

// serverGone: the control plane is killed.
func (d *telling) serverGone(ctx context.Context) error {
	d.begin("The server is killed")
	d.t.ServerProc.Signal(syscall.SIGKILL)
	<-d.t.ServerProc.Done()
	r, err := d.t.Hosts["web"].Load(ctx, apiURL+"/", 100, 3*time.Second, "-fresh")
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("calls failed: %+v", r)
	}
	d.claim("%d calls by name, each on a new connection, 0 failed", r.Calls)
	web := d.t.Hosts["web"]
	web.Envoy.Kill()
	began := time.Now()
	if err := web.StartEnvoy(ctx); err != nil {
		return err
	}
	if err := web.WaitFor(ctx, apiURL+"/", 200, 10*time.Second); err != nil {
		return err
	}
	d.claim("web's Envoy killed and started with no server: serves from the agent's disk after %.1f s", time.Since(began).Seconds())
	return d.t.RunServer(ctx)
}

// leave: out again, without a trace.
func (d *telling) leave(ctx context.Context) error {
	d.begin("The hosts leave")
	for i := len(hosts) - 1; i >= 0; i-- {
		h := d.t.Hosts[hosts[i].name]
		if out, code := h.Kerege(ctx, "leave"); code != 0 {
			return fmt.Errorf("kerege leave on %s: exit %d: %s", h.Name, code, out)
		}
		after, err := h.Rules(ctx)
		if err != nil {
			return err
		}
		if after != h.RulesBefore {
			return fmt.Errorf("rules of %s are not what they were:\n%s", h.Name, after)
		}
	}
	d.see("kerege leave")
	d.claim("rules of all three hosts: identical to before (4 tables, 2 families)")
	return nil
}

// peerIdentity asks web's Envoy which SPIFFE ID it demands of api.
func (d *telling) peerIdentity(ctx context.Context) (string, error) {
	const want = "spiffe://demo.example/svc/api"
	dump, err := d.t.Hosts["web"].EnvoyAdmin(ctx, "/config_dump?mask=dynamic_active_clusters")
	if err != nil {
		return "", err
	}
	if !strings.Contains(dump, want) {
		return "", fmt.Errorf("web's Envoy does not pin %s", want)
	}
	handshakes, err := d.t.Hosts["web"].EnvoyAdmin(ctx, "/stats?filter=ssl.handshake")
	if err != nil {
		return "", err
	}
	if !strings.Contains(handshakes, "ssl.handshake") {
		return "", fmt.Errorf("no TLS handshake was counted")
	}
	return want, nil
}
