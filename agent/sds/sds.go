// Package sds serves the node's certificates to the local Envoy that may have
// them.
//
// Promises: a server speaks for exactly one proxy, the one whose socket it is
// put on, and has nothing of any other; a new certificate is sent by itself and
// opens, closes or drains no connection; nothing is sent before there is an
// identity, so that no listener opens without one; no log shows a key.
package sds

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Names of the two secrets of every proxy.
const (
	Identity = "identity" // certificate chain and private key
	Bundle   = "bundle"   // trusted roots
)

const (
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	maxNames   = 64 // in one request
)

// Source gives one workload's secrets as PEM: all empty where there is no
// identity yet. changed is closed once they are others; nil never is.
type Source interface {
	Secrets() (chain, key, bundle []byte, changed <-chan struct{})
}

// Server is the secret discovery service of one proxy.
type Server struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	proxy  string
	source Source
	log    hclog.Logger

	readers sync.WaitGroup
}

// New returns the service for a proxy, by its Envoy node id, from the secrets of
// its workload.
func New(proxy string, source Source, log hclog.Logger) *Server {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &Server{proxy: proxy, source: source, log: log}
}

// Register adds the service to the gRPC server on the proxy's own socket.
func (s *Server) Register(g grpc.ServiceRegistrar) { secret.RegisterSecretDiscoveryServiceServer(g, s) }

// Wait returns when the reader of every stream has ended, which they do when
// the gRPC server has stopped.
func (s *Server) Wait() { s.readers.Wait() }

// resource is a secret ready to be sent. Its version tells nothing of the key.
type resource struct {
	name, version string
	body          *anypb.Any
}

// have lists what can be sent now; nothing before there is an identity.
func (s *Server) have() ([]resource, <-chan struct{}, error) {
	chain, key, bundle, changed := s.source.Secrets()
	if len(chain) == 0 || len(key) == 0 || len(bundle) == 0 {
		return nil, changed, nil
	}
	own, err := pack(Identity, chain, &tlsv3.Secret{Name: Identity, Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)},
	}})
	if err != nil {
		return nil, nil, err
	}
	roots, err := pack(Bundle, bundle, &tlsv3.Secret{Name: Bundle, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(bundle)},
	}})
	return []resource{own, roots}, changed, err
}

func inline(pem []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: pem}}
}

func pack(name string, public []byte, m *tlsv3.Secret) (resource, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return resource{}, fmt.Errorf("encoding the secret %s: %w", name, err)
	}
	sum := sha256.Sum256(public)
	return resource{name: name, version: hex.EncodeToString(sum[:8]), body: &anypb.Any{TypeUrl: secretType, Value: b}}, nil
}

func known(name string) bool { return name == Identity || name == Bundle }

// check says why a request is not answered. The socket has said who the proxy
// is; a node that says otherwise has come to the wrong one.
func (s *Server) check(first bool, node *corev3.Node, typ string, names int) error {
	if id := node.GetId(); (first || node != nil) && id != s.proxy {
		s.log.Warn("audit: a stranger on a proxy's socket asks for secrets and is refused", "proxy", s.proxy, "says_it_is", fmt.Sprintf("%.200q", id))
		return status.Errorf(codes.PermissionDenied, "this socket belongs to the proxy %q; a node that says it is %.200q is not served here", s.proxy, id)
	}
	if typ != "" && typ != secretType {
		s.log.Warn("audit: something else than a secret is asked for and refused", "proxy", s.proxy, "type", fmt.Sprintf("%.200q", typ))
		return status.Errorf(codes.PermissionDenied, "only secrets are served here, not %.200q", typ)
	}
	if names > maxNames {
		return status.Errorf(codes.InvalidArgument, "a request may name %d secrets, not %d", maxNames, names)
	}
	return nil
}

func (s *Server) refuse(name string) {
	s.log.Warn("audit: a secret that is not the proxy's is asked for and refused", "proxy", s.proxy, "name", fmt.Sprintf("%.200q", name))
}

func (s *Server) nacked(detail fmt.Stringer, nonce string) {
	s.log.Error("Envoy refuses a secret; it keeps the one before", "proxy", s.proxy, "nonce", nonce, "error", detail.String())
}

// receive hands on requests until the stream ends.
func receive[R any](s *Server, done <-chan struct{}, recv func() (R, error)) (<-chan R, <-chan error) {
	requests, ended := make(chan R), make(chan error, 1)
	s.readers.Go(func() { // ends with the stream, after its handler
		for {
			r, err := recv()
			if err != nil {
				if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
					err = nil
				}
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-done:
				return
			}
		}
	})
	return requests, ended
}

// FetchSecrets is not for a mesh: rotation needs a stream.
func (s *Server) FetchSecrets(context.Context, *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "secrets are streamed, so that they can be renewed: set api_type to DELTA_GRPC")
}
