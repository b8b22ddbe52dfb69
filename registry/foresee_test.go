package registry

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kerege/kerege/mesh"
)

// TestForesee: after any edits of the files, what was foreseen is what the hub came to.
func TestForesee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{})
		defer r.close()
		r.Put(instances("web", 2), instances("api", 2), instances("batch-a", 1))
		pass()
		names := []string{"web", "api", "db", "batch-a", "later"}
		dice := rand.New(rand.NewPCG(7, 1))
		pick := func(list ...string) string { return list[dice.IntN(len(list))] }
		kept := false
		for round := range 400 {
			file := mesh.Part{Source: "file"}
			for _, label := range append(names, "batch-*", "*") {
				if dice.IntN(2) == 0 {
					continue
				}
				in := mesh.Intention{Label: label}
				for range 1 + dice.IntN(2) {
					in.Rules = append(in.Rules, mesh.Permission{Action: mesh.Action(pick("allow", "allow", "deny")), From: []string{pick(append(names, "batch-*", "*")...)}})
				}
				file.Intentions = append(file.Intentions, in)
			}
			for _, name := range names {
				if dice.IntN(3) == 0 {
					file.Services = append(file.Services, mesh.ServiceConfig{Name: mesh.ServiceName(name), Ports: []mesh.Port{{Number: uint16(8000 + dice.IntN(3))}}})
				}
				if dice.IntN(4) == 0 {
					file.Routes = append(file.Routes, mesh.Route{Service: mesh.ServiceName(name), Rules: []mesh.Rule{{Name: fmt.Sprint("r", dice.IntN(3))}}})
				}
			}
			before := r.Snapshot()
			foreseen := Foresee(before, file)
			r.Put(file)
			pass()
			if keys := mesh.Diff(foreseen, r.Snapshot()); len(keys) > 0 {
				t.Fatalf("round %d: not foreseen: %v", round, keys)
			}
			plain, _ := before.With(file)
			kept = kept || len(mesh.Diff(plain, foreseen)) > 0
			if dice.IntN(20) == 0 {
				time.Sleep(2 * time.Hour) // what is kept for callers goes
			}
		}
		if !kept {
			t.Error("nothing was ever kept: the test shows nothing")
		}
	})
}
