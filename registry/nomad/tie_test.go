package nomad

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestATieIsHeldAgainstTheAllocation(t *testing.T) {
	const text = `{"ID":"a1","Namespace":"team","NodeName":"n1","TaskGroup":"api","ClientStatus":"running","DesiredStatus":"run","Job":{"TaskGroups":[
		{"Name":"api","Services":[{"Name":"api","Provider":"consul"}],"Tasks":[{"Services":[{"Name":"admin","Provider":"consul"}]}]},
		{"Name":"pay","Services":[{"Name":"pay","Provider":"consul"}]}]}}`
	true1 := Tie{Namespace: "team", Allocation: "a1", Node: "n1", Service: "api"}
	for name, c := range map[string]struct {
		change func(*Tie, *allocation)
		want   string // of the refusal; "": none
	}{
		"its group's service":         {func(*Tie, *allocation) {}, ""},
		"its task's service":          {func(x *Tie, _ *allocation) { x.Service = "admin" }, ""},
		"starting":                    {func(_ *Tie, a *allocation) { a.ClientStatus = "pending" }, ""},
		"told to stop, and still on":  {func(_ *Tie, a *allocation) { a.DesiredStatus = "stop" }, ""},
		"another group's service":     {func(x *Tie, _ *allocation) { x.Service = "pay" }, `has no service "pay" in its group "api"`},
		"a service that nobody has":   {func(x *Tie, _ *allocation) { x.Service = "bank" }, `has no service "bank"`},
		"another node":                {func(x *Tie, _ *allocation) { x.Node = "n2" }, `on "n1" and not on "n2"`},
		"another allocation":          {func(x *Tie, _ *allocation) { x.Allocation = "a2" }, "answers for"},
		"another namespace":           {func(x *Tie, _ *allocation) { x.Namespace = "other" }, "answers for"},
		"an allocation that is over":  {func(_ *Tie, a *allocation) { a.ClientStatus = "complete" }, "is over"},
		"an allocation that was lost": {func(_ *Tie, a *allocation) { a.ClientStatus = "lost" }, "is over"},
		"an answer without a job":     {func(_ *Tie, a *allocation) { a.Job = nil }, ErrAway.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var got allocation
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			tie := true1
			c.change(&tie, &got)
			err := bears(&got, tie)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}
