package registry

import (
	"fmt"
	"testing"

	"github.com/kerege/kerege/mesh"
)

// One instance changes in a mesh of 5,000 services and 25,000 instances: put to
// published.
func BenchmarkOneChangeOf5000Services(b *testing.B) {
	h := New(Options{Quiet: 1})
	ended := make(chan error, 1)
	ctx := b.Context()
	go func() { ended <- h.Run(ctx) }()
	for i := range 5000 {
		p := instances(fmt.Sprint("s", i), 5)
		p.Source = "consul"
		h.Put(p)
	}
	if err := h.Settle(ctx); err != nil {
		b.Fatal(err)
	}
	h.Take()
	select {
	case <-h.Changes():
	default:
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		p := instances(fmt.Sprint("s", n%5000), 5+n%2)
		p.Instances[0].Meta = map[string]string{"n": fmt.Sprint(n)}
		h.Put(mesh.Part{Source: "consul", Scope: p.Scope, Instances: p.Instances})
		for done := false; !done; {
			<-h.Changes()
			_, keys := h.Take()
			done = len(keys) > 0
		}
	}
}
