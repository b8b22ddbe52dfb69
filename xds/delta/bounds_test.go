package delta

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// A client cannot make a session keep any number of names, or long ones.
func TestNamesAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	long := strings.Repeat("x", maxName+1)
	for what, req := range map[string]*discovery.DeltaDiscoveryRequest{
		"a long name":        {ResourceNamesSubscribe: []string{long}},
		"a long name put by": {ResourceNamesUnsubscribe: []string{long}},
		"a long name held":   {InitialResourceVersions: map[string]string{long: "1"}},
		"a long version":     {InitialResourceVersions: map[string]string{"a": long}},
	} {
		req.TypeUrl = TypeCluster
		if err := New(Options{}).Receive(now, req); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := New(Options{})
	err := error(nil)
	for i := range maxNames/1000 + 1 {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{strings.Repeat("y", maxName)}}
		for n := range 1000 {
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, fmt.Sprint(i, "-", n))
		}
		if err = s.Receive(now, req); err != nil {
			if i < maxNames/1000-1 {
				t.Fatalf("after %d: %v", i, err)
			}
			break
		}
	}
	if !errors.Is(err, ErrRequest) {
		t.Errorf("all of them: %v", err)
	}
	held := map[string]string{}
	for i := range maxNames + 1 {
		held[fmt.Sprint(i)] = "1"
	}
	if err := New(Options{}).Receive(now, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: held}); !errors.Is(err, ErrRequest) {
		t.Errorf("held: %v", err)
	}
}
