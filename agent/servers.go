package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// servers is the one connection of this node to the control plane: to any of the
// servers, over mTLS with the node's certificate; it goes to another by itself.
type servers struct {
	*grpc.ClientConn
	list *manual.Resolver

	mu        sync.Mutex
	addresses []string
}

// pickFirst tries the servers in random order, so that nodes spread over them.
const pickFirst = `{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}`

// newServers connects to nothing yet: it does when it is used. config is asked
// for at each handshake, so that a renewed certificate is shown.
func newServers(config *tls.Config, addresses []string) (*servers, error) {
	s := &servers{list: manual.NewBuilderWithScheme("kerege")}
	s.list.InitialState(grpcresolver.State{Addresses: toAddresses(addresses)})
	s.addresses = addresses
	conn, err := grpc.NewClient("kerege:///servers",
		grpc.WithResolvers(s.list),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(pickFirst),
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.4, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to the servers: %w", err)
	}
	s.ClientConn = conn
	return s, nil
}

func toAddresses(list []string) []grpcresolver.Address {
	var out []grpcresolver.Address
	for _, a := range list {
		out = append(out, grpcresolver.Address{Addr: a})
	}
	return out
}

// use replaces the servers' addresses. The open connection stays while its
// server is still one of them.
func (s *servers) use(addresses []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(addresses) == 0 || slices.Equal(addresses, s.addresses) {
		return
	}
	s.addresses = slices.Clone(addresses)
	s.list.UpdateState(grpcresolver.State{Addresses: toAddresses(addresses)})
}

var errNoServer = errors.New("no server is known: write retry_join into agent.hcl, or join with a token that names one")

// state says how the connection is.
func (s *servers) state() (list []string, connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addresses), s.GetState() == connectivity.Ready
}
