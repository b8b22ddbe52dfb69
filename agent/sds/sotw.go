package sds

import (
	"slices"
	"strconv"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fullStream is one stream of whole states.
type fullStream struct {
	s     *Server
	out   secret.SecretDiscoveryService_StreamSecretsServer
	names []string // asked for, sorted
	sent  string   // version
	due   bool     // the names are others: answer even with the same version
	n     int
}

// StreamSecrets serves one stream of whole states. There "removed" cannot be
// said, so a name that is not this proxy's ends the stream, and is audited.
func (s *Server) StreamSecrets(out secret.SecretDiscoveryService_StreamSecretsServer) error {
	requests, ended := receive(s, out.Context().Done(), out.Recv)
	st := &fullStream{s: s, out: out}
	for first := true; ; {
		have, changed, err := s.have()
		if err != nil {
			return err
		}
		if err := st.send(have); err != nil {
			return err
		}
		select {
		case r := <-requests:
			if err := s.check(first, r.GetNode(), r.GetTypeUrl(), len(r.GetResourceNames())); err != nil {
				return err
			}
			if err := st.take(r, first); err != nil {
				return err
			}
			first = false
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

func (st *fullStream) take(r *discovery.DiscoveryRequest, first bool) error {
	if r.GetErrorDetail() != nil {
		st.s.nacked(r.GetErrorDetail(), r.GetResponseNonce())
	}
	if !first && r.GetResponseNonce() != strconv.Itoa(st.n) {
		return nil // answers a message that another has replaced
	}
	for _, name := range r.GetResourceNames() {
		if !known(name) {
			st.s.refuse(name)
			return status.Errorf(codes.PermissionDenied, "the secret %.200q is not this proxy's", name)
		}
	}
	names := slices.Sorted(slices.Values(r.GetResourceNames()))
	if first {
		st.sent = r.GetVersionInfo()
	}
	st.due = !first && !slices.Equal(names, st.names)
	st.names = names
	return nil
}

func (st *fullStream) send(have []resource) error {
	m := &discovery.DiscoveryResponse{TypeUrl: secretType}
	var versions []string
	for _, r := range have {
		if slices.Contains(st.names, r.name) {
			m.Resources = append(m.Resources, r.body)
			versions = append(versions, r.version)
		}
	}
	m.VersionInfo = strings.Join(versions, ".")
	if len(m.Resources) == 0 || m.VersionInfo == st.sent && !st.due {
		return nil
	}
	st.sent, st.due = m.VersionInfo, false
	st.n++
	m.Nonce = strconv.Itoa(st.n)
	return st.out.Send(m)
}
