package command

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

// devReport is what -json prints, once the mesh stands and with each change of it.
type devReport struct {
	Generation  int        `json:"generation"`
	TrustDomain string     `json:"trust_domain"`
	Server      string     `json:"server"` // for KEREGE_ADDR
	Agent       string     `json:"agent"`  // for KEREGE_AGENT_ADDR
	Files       string     `json:"files"`
	Data        string     `json:"data"`
	Instances   []devPlace `json:"instances"`
	Without     []string   `json:"without_envoy"`
	NotReady    []string   `json:"not_ready"`
	Frozen      bool       `json:"frozen,omitempty"` // no Envoy is told of anything before kerege thaw
}

// setFrozen says at once that the mesh is frozen, or no longer: one that was frozen
// when an earlier run ended still is.
func (d *devSession) setFrozen(now *api.Frozen) {
	was := d.frozen
	d.frozen = now
	if (was == nil) == (now == nil) {
		return
	}
	c := d.call
	if now == nil {
		fmt.Fprintln(c.err, "Thawed: the Envoys are brought in step.")
		return
	}
	text := "FROZEN since " + day(now.Since)
	if now.Reason != "" {
		text += " (" + plain(now.Reason) + ")"
	}
	fmt.Fprintln(c.err, c.paint(color.FgRed, text+": no Envoy is told of a change, and one that has just started knows no service, so that calls through it fail (503)."))
	fmt.Fprintf(c.err, "To end it: kerege thaw -addr %s\n", d.serverAddress())
}

// patience is how long the Envoys are waited for.
func (d *devSession) patience() time.Duration {
	if d.frozen != nil {
		return devFrozen
	}
	return devSettles
}

// tell waits for a generation to be in force everywhere and says so.
func (d *devSession) tell(ctx context.Context, st api.Status, first bool) error {
	c := d.call
	missing := d.settled(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if d.sample != nil {
		d.sample.api.Store(d.addressOf("web", "api"))
	}
	d.printFindings(ctx)
	changed := !reflect.DeepEqual(d.layout, d.told)
	d.told = d.layout
	if c.JSON {
		none := func(list []string) []string { return append([]string{}, list...) }
		return c.printJSON(devReport{Generation: st.Generation.Number, TrustDomain: st.TrustDomain, Server: d.serverAddress(), Agent: d.agentAddress(),
			Files: d.dir, Data: d.data, Instances: d.layout.places, Without: none(d.layout.left), NotReady: none(missing), Frozen: d.frozen != nil})
	}
	if first {
		state := "each with an Envoy"
		if d.frozen != nil {
			state = "and it is FROZEN, with calls that fail before kerege thaw"
		}
		fmt.Fprintf(c.out, "The mesh %s runs on this machine: %s of %s, %s. Nothing is captured.\n",
			plain(st.TrustDomain), count(len(d.layout.places), "instance", "instances"), count(d.services(), "service", "services"), state)
	} else {
		fmt.Fprintf(c.out, "\n%s\n", c.paint(color.FgGreen, fmt.Sprintf("Generation %d of the files is in force.", st.Generation.Number)))
	}
	if first || changed {
		d.printCalls()
		d.printInstances()
	}
	for _, why := range missing {
		fmt.Fprintln(c.out, c.paint(color.FgYellow, "not ready: "+plain(why)))
	}
	if first {
		d.printTry()
	}
	return nil
}

func (d *devSession) services() int {
	names := map[string]bool{}
	for _, p := range d.layout.places {
		names[p.Service] = true
	}
	return len(names)
}

// caller is an instance's name in tables: the service's where it has only one.
func (d *devSession) caller(p *devPlace) string {
	for i := range d.layout.places {
		if o := &d.layout.places[i]; o.Service == p.Service && o.Instance != p.Instance {
			return p.key()
		}
	}
	return p.Service
}

func (d *devSession) addressOf(from, to string) string {
	for _, p := range d.layout.places {
		for _, u := range p.Upstreams {
			if p.Service == from && u.Service == to {
				return u.Address
			}
		}
	}
	return ""
}

// printCalls shows first the calls that are let through.
func (d *devSession) printCalls() {
	c := d.call
	var t table
	for _, allowed := range []string{"yes", "some", "no"} {
		for i := range d.layout.places {
			p := &d.layout.places[i]
			for _, u := range p.Upstreams {
				if u.Allowed != allowed {
					continue
				}
				to, note := u.Service, ""
				if u.Name != "" {
					to += ":" + u.Name
				}
				switch allowed {
				case "some":
					note = "some requests: see the intention"
				case "no":
					note = c.paint(color.Faint, "refused: no intention allows it")
				}
				t.add("  "+plain(d.caller(p)), "calls "+plain(to), "at "+u.Address, note)
			}
		}
	}
	fmt.Fprintln(c.out)
	t.print(c.out)
}

func (d *devSession) printInstances() {
	c := d.call
	var t table
	for i := range d.layout.places {
		p := &d.layout.places[i]
		for _, a := range p.Accept {
			t.add("  "+plain(p.key()), "is called at "+a.Listen.String(), "and listens on "+a.App.String())
		}
	}
	fmt.Fprintln(c.out)
	t.print(c.out)
	for _, left := range d.layout.left {
		fmt.Fprintln(c.out, c.paint(color.FgYellow, "  without an Envoy: "+plain(left)))
	}
}

// printTry shows commands that work, each with what to expect of it.
func (d *devSession) printTry() {
	c := d.call
	var t table
	try := func(command, expect string) { t.add("  "+command, c.paint(color.Faint, expect)) }
	from, to, open := d.example("yes")
	if d.sample != nil {
		try("for i in $(seq 20); do curl -s "+open+"; done", "# what api says to web: about 2 of 20 times it is v2")
		try(fmt.Sprintf("curl -s http://127.0.0.1:%d", d.sample.ports["web"]), "# the same by the program web, which calls api at "+open)
	} else if strings.HasPrefix(open, "http") {
		try("curl -si "+open, fmt.Sprintf("# %s answers %s", to, from))
	}
	if who, whom, closed := d.example("no"); strings.HasPrefix(closed, "http") {
		try("curl -si "+closed, fmt.Sprintf("# 403: %s may not call %s", who, whom))
	}
	try("export KEREGE_ADDR="+d.serverAddress(), "")
	try("kerege status", "# everything ok; proxies all synced")
	try("kerege services", "")
	if from != "" {
		try(fmt.Sprintf("kerege explain -from %s -to %s", from, to), "# each step of the call with its line of HCL; allowed")
	}
	files, _ := filepath.Abs(d.dir)
	fmt.Fprintf(c.out, "\nTry, in another terminal:\n\n")
	t.print(c.out)
	fmt.Fprintf(c.out, "\nEdit a file in %s: it is applied when you save it.\nEnvoys log into %s. Ctrl-C ends it all.\n", files, d.logs())
}

// example is one call of a kind: from whom, to whom, where.
func (d *devSession) example(allowed string) (from, to, address string) {
	for _, p := range d.layout.places {
		for _, u := range p.Upstreams {
			if u.Allowed == allowed {
				return p.Service, u.Service, u.Address
			}
		}
	}
	return "", "", ""
}

// printFindings shows what there is to say about the files as they are on disk,
// in the form that kerege validate has.
func (d *devSession) printFindings(ctx context.Context) {
	var p api.Plan
	if err := d.server.Post(ctx, "/v1/plan", struct{}{}, &p); err != nil {
		if ctx.Err() == nil {
			d.log.Error("asking what is wrong with the files", "error", err)
		}
		return
	}
	for _, x := range append(p.Diagnostics, p.Warnings...) {
		fmt.Fprint(d.call.err, "\n"+x.Text)
	}
}
