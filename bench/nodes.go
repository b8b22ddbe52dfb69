package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

const trustDomain = "bench.test"

// introduction is what a captured proxy says of itself.
var introduction = &structpb.Struct{Fields: map[string]*structpb.Value{"kerege": structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
	"inbound_port": structpb.NewNumberValue(15006), "outbound_port": structpb.NewNumberValue(15001)}})}}

// nodes are the certificates of a fleet's hosts. They share one key, which makes
// a handshake neither cheaper nor dearer.
type nodes struct {
	Key    []byte // SEC 1
	Bundle []byte // PEM
	Chains [][][]byte

	certs []tls.Certificate
	roots *x509.CertPool
}

// issueNodes makes a CA in a folder, and certificates for the shape's nodes
// beside it.
func issueNodes(dir string, s shape) (*ca.Authority, error) {
	authority, err := ca.Open(filepath.Join(dir, "ca"), ca.Options{TrustDomain: trustDomain, LeafTTL: time.Hour})
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the nodes' key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making the nodes' request: %w", err)
	}
	n := nodes{Bundle: authority.Bundle()}
	if n.Key, err = x509.MarshalECPrivateKey(key); err != nil {
		return nil, fmt.Errorf("writing the nodes' key: %w", err)
	}
	for i := range s.P {
		chain, err := authority.Sign(csr, mesh.Identity{TrustDomain: trustDomain, Kind: mesh.KindNodeIdentity, Name: nodeName(i)}, 0)
		if err != nil {
			return nil, err
		}
		n.Chains = append(n.Chains, chain)
	}
	b, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("writing the nodes: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nodes.json"), b, 0o600); err != nil {
		return nil, fmt.Errorf("writing the nodes: %w", err)
	}
	return authority, nil
}

func readNodes(dir string) (*nodes, error) {
	b, err := os.ReadFile(filepath.Join(dir, "nodes.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the nodes: %w", err)
	}
	n := &nodes{roots: x509.NewCertPool()}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("reading the nodes: %w", err)
	}
	key, err := x509.ParseECPrivateKey(n.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the nodes' key: %w", err)
	}
	for _, chain := range n.Chains {
		n.certs = append(n.certs, tls.Certificate{Certificate: chain, PrivateKey: key})
	}
	n.roots.AppendCertsFromPEM(n.Bundle)
	return n, nil
}

// credentials are those of node i; of nobody where n is nil.
func (n *nodes) credentials(i int) credentials.TransportCredentials {
	if n == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, ServerName: "127.0.0.1", RootCAs: n.roots, Certificates: []tls.Certificate{n.certs[i%len(n.certs)]}})
}
