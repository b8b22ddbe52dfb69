package registry

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

// hasty says when a part is out of its hands.
type hasty struct{ say, said chan mesh.Part }

func (h *hasty) Name() string { return "hasty" }

func (h *hasty) Watch(ctx context.Context, out chan<- mesh.Part) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-h.say:
			select {
			case out <- p:
				h.said <- p
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// What a source has got rid of before Settle is in the snapshot after it.
func TestSettledMeansInTheSnapshot(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	src := &hasty{make(chan mesh.Part), make(chan mesh.Part)}
	h := New(Options{Quiet: time.Millisecond})
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx, src) }()
	for i := range 300 {
		name := mesh.ServiceName(fmt.Sprintf("s%d", i))
		src.say <- mesh.Part{Instances: []mesh.Instance{{Service: name, ID: "1", Addr: netip.MustParseAddrPort("10.0.0.1:80"), Health: mesh.Healthy, Weight: 1}}}
		<-src.said
		if err := h.Settle(ctx); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-h.Ready()
		}
		if h.Snapshot().Service(name) == nil && i > 0 {
			t.Fatalf("part %d is settled and not in the snapshot", i)
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := h.Settle(t.Context()); err != nil { // nothing is under way: it does not hang
		t.Error(err)
	}
}
