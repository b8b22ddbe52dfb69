package delta

import "testing"

// A route that sends calls to another service makes that one's cluster part of
// two groups, as two resources with the same bytes.
func TestWhatSeveralGroupsHaveGoesWithTheLast(t *testing.T) {
	of := func(key string, rs ...*Resource) *Group { return &Group{Key: key, Resources: rs} }
	api := of("upstream/api", cluster("api", 1))
	both := of("upstream/web", cluster("api", 1), cluster("web", 1))
	alone := of("upstream/web", cluster("web", 1))
	for _, c := range []struct {
		name   string
		after  []*Group
		answer string
	}{
		{"the later group lets go of it", []*Group{api, alone}, "nothing"},
		{"the later group goes", []*Group{api}, "CDS -web"},
		{"the earlier group goes", []*Group{both}, "nothing"},
		{"both let go", []*Group{alone}, "CDS -api"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.s.Want(&Set{Groups: []*Group{api, both}})
			r.sub(TypeCluster, "*")
			r.nextAck("CDS api web")
			r.s.Want(&Set{Groups: c.after})
			if m, _ := r.s.Next(r.now); say(m) != c.answer {
				t.Fatalf("next message is %q, want %q", say(m), c.answer)
			}
		})
	}
}
