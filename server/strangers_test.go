package server

import (
	"context"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// Who shows no certificate takes no place from those who do: no stream of it is
// begun, silent or not, and it cannot make the server keep what it sends.
func TestStrangersCostNothing(t *testing.T) {
	r := newRig(t).start()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	stranger := r.dial(nil)
	var silent []grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]
	for range 50 {
		s, err := discovery.NewAggregatedDiscoveryServiceClient(stranger).DeltaAggregatedResources(ctx)
		noError(t, err)
		silent = append(silent, s)
	}
	for _, s := range silent {
		if _, err := s.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Fatalf("a silent stream without a certificate: %v", err)
		}
	}

	megabytes := strings.Repeat("x", 4<<20)
	big, err := discovery.NewAggregatedDiscoveryServiceClient(r.dial(nil)).DeltaAggregatedResources(ctx)
	noError(t, err)
	_ = big.Send(&discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: megabytes}}) // it may be cut meanwhile
	if _, err := big.Recv(); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Unavailable {
		t.Errorf("a big message on a stream: %v", err)
	}
	join := keregev1.NewJoinClient(r.dial(nil))
	if _, err := join.Join(ctx, &keregev1.JoinRequest{Token: megabytes}); status.Code(err) != codes.Unavailable {
		t.Errorf("a big join: %v, want the connection closed", err)
	}
	if _, err := join.Join(metadata.AppendToOutgoingContext(ctx, "x-big", megabytes[:1<<20]), &keregev1.JoinRequest{}); err == nil || status.Code(err) == codes.InvalidArgument {
		t.Errorf("a megabyte of headers: %v", err)
	}
	if _, err := join.Join(ctx, &keregev1.JoinRequest{Token: "kj_no", Csr: []byte("x")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a small join afterwards: %v", err)
	}
}
