package registry

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kerege/kerege/mesh"
)

func healthyOf(list []*mesh.Instance) (n int) {
	for _, in := range list {
		if in.Health == mesh.Healthy {
			n++
		}
	}
	return n
}

// A9: everything of a service goes at once.
func TestAMassLossIsHeldThenUnhealthyThenGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 10)
		a.say <- done
		time.Sleep(time.Minute)
		a.say <- instances("api", 0)
		time.Sleep(29 * time.Second)
		r.want(10, "api")
		if n := healthyOf(r.Snapshot().Instances("api")); n != 10 {
			t.Errorf("%d healthy in the hold", n)
		}
		g := r.Guard()
		if len(g) != 1 || g[0].Service != "api" || g[0].Removed != 10 || g[0].Of != 10 {
			t.Fatalf("guard: %+v", g)
		}
		time.Sleep(2 * time.Second)
		r.want(10, "api")
		if n := healthyOf(r.Snapshot().Instances("api")); n != 0 {
			t.Errorf("%d healthy after the hold", n)
		}
		time.Sleep(10 * time.Second)
		r.want(0, "api")
		if len(r.Guard()) != 0 {
			t.Errorf("guard: %+v", r.Guard())
		}
	})
}

// A10: an operator's confirmation skips the hold.
func TestConfirmSkipsTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 10)
		a.say <- done
		time.Sleep(time.Minute)
		a.say <- instances("api", 1)
		pass()
		r.want(10, "api")
		if r.Confirm("web") || !r.Confirm("api") {
			t.Error("Confirm does not know what is held")
		}
		pass()
		r.want(1, "api")
	})
}

func TestWhatComesBackEndsTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 10)
		a.say <- done
		time.Sleep(time.Minute)
		a.say <- instances("api", 0)
		time.Sleep(5 * time.Second)
		a.say <- instances("api", 9)
		pass()
		r.want(10, "api") // the tenth is still held
		time.Sleep(time.Minute)
		r.want(9, "api")
		a.say <- instances("api", 0)
		time.Sleep(5 * time.Second)
		a.say <- instances("api", 9)
		pass()
		if len(r.Guard()) != 0 {
			t.Errorf("guard: %+v", r.Guard())
		}
		r.want(9, "api")
	})
}

func TestOrdinaryLossesPassAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 10)
		a.say <- instances("small", 2)
		a.say <- instances("other", 100)
		a.say <- done
		time.Sleep(time.Minute)
		a.say <- instances("api", 8)
		a.say <- instances("small", 1)
		time.Sleep(time.Second)
		r.want(8, "api")
		r.want(1, "small")
		moved := instances("api", 8) // a new version in place of the old one
		for i := range moved.Instances {
			moved.Instances[i].ID = fmt.Sprint("v2-", i)
		}
		a.say <- moved
		time.Sleep(time.Second)
		r.want(8, "api")
		if g := r.Guard(); len(g) != 0 {
			t.Errorf("guard: %+v", g)
		}
	})
}

func TestLossesOneByOneAreOneLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 10)
		a.say <- instances("other", 100)
		a.say <- done
		time.Sleep(time.Minute)
		for n := 9; n >= 0; n-- {
			a.say <- instances("api", n)
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(r.Snapshot().Instances("api")); n < 5 {
			t.Errorf("%d of 10 are left", n)
		}
	})
}

func TestALossRightAfterTheStartIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("other", 100)
		a.say <- instances("api", 10)
		a.say <- done
		time.Sleep(time.Second)
		a.say <- instances("api", 0)
		time.Sleep(time.Second)
		r.want(10, "api")
	})
}

func TestAFifthOfTheMeshIsMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		for i := range 10 {
			a.say <- instances(fmt.Sprint("s", i), 2)
		}
		a.say <- done
		time.Sleep(time.Minute)
		for i := range 10 {
			r.Put(mesh.Part{Source: "consul", Scope: fmt.Sprint("s", i), Instances: instances(fmt.Sprint("s", i), 1).Instances})
		}
		time.Sleep(time.Second)
		kept := 0
		for i := range 10 {
			kept += len(r.Snapshot().Instances(mesh.ServiceName(fmt.Sprint("s", i))))
		}
		if kept < 16 {
			t.Errorf("%d of 20 instances are left", kept)
		}
	})
}

func TestAServiceThatVanishesInTroubleIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := reporting{newScript("consul")}
		a.report.Store(&mesh.SourceReport{State: mesh.SourceOK})
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 1)
		a.say <- instances("web", 1)
		a.say <- done
		time.Sleep(time.Minute)
		a.say <- instances("web", 0)
		pass()
		r.want(0, "web")
		a.report.Store(&mesh.SourceReport{State: mesh.SourceOK, Trouble: time.Now().Add(-30 * time.Second)})
		a.say <- instances("api", 0)
		pass()
		r.want(1, "api")
		time.Sleep(time.Minute)
		r.want(0, "api")
	})
}

// A11: a check that flaps five times a second is followed once a second.
func TestAFlappingServiceIsFollowedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newScript("consul")
		r := start(t, Options{}, a)
		defer r.close()
		a.say <- instances("api", 3)
		a.say <- done
		time.Sleep(time.Minute)
		<-r.Changes()
		pushes := 0
		var p mesh.Part
		for i := range 100 {
			p = instances("api", 3)
			for k := range p.Instances { // what holds a second later is never what was pushed last
				if i%7>>k&1 == 1 {
					p.Instances[k].Health = mesh.Unhealthy
				}
			}
			a.say <- p
			time.Sleep(200 * time.Millisecond)
			select {
			case <-r.Changes():
				pushes++
			default:
			}
		}
		if pushes < 10 || pushes > 20+flapBurst {
			t.Errorf("100 flaps in 20 s were pushed %d times", pushes)
		}
		if s := r.Status()[0]; len(s.Flapping) != 1 || s.Flapping[0] != "api" {
			t.Errorf("flapping: %v", s.Flapping)
		}
		a.say <- instances("api", 4) // a new instance is not slowed down
		time.Sleep(20 * time.Millisecond)
		r.want(4, "api")
		p = instances("api", 4)
		p.Instances[1].Health = mesh.Unhealthy
		a.say <- p
		time.Sleep(2 * time.Second)
		if n := healthyOf(r.Snapshot().Instances("api")); n != 3 {
			t.Errorf("the last word did not get through: %d healthy", n)
		}
		time.Sleep(time.Minute)
		r.Put(mesh.Part{Source: "x", Scope: "y"})
		pass()
		if s := r.Status()[0]; len(s.Flapping) != 0 {
			t.Errorf("still flapping: %v", s.Flapping)
		}
	})
}
