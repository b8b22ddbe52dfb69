package sds

import (
	"slices"
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
)

// deltaStream is one incremental stream.
type deltaStream struct {
	s    *Server
	out  secret.SecretDiscoveryService_DeltaSecretsServer
	subs map[string]string // name to the version that was sent, "" none
	gone []string          // names to be answered as removed
	n    int               // responses sent
}

// DeltaSecrets serves one incremental stream: a name that is not this proxy's is
// answered as removed, and audited.
func (s *Server) DeltaSecrets(out secret.SecretDiscoveryService_DeltaSecretsServer) error {
	requests, ended := receive(s, out.Context().Done(), out.Recv)
	st := &deltaStream{s: s, out: out, subs: map[string]string{}}
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
			if err := s.check(first, r.GetNode(), r.GetTypeUrl(), len(r.GetResourceNamesSubscribe())+len(r.GetResourceNamesUnsubscribe())); err != nil {
				return err
			}
			st.take(r, first)
			first = false
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

func (st *deltaStream) take(r *discovery.DeltaDiscoveryRequest, first bool) {
	if r.GetErrorDetail() != nil {
		st.s.nacked(r.GetErrorDetail(), r.GetResponseNonce())
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		delete(st.subs, name)
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		if !known(name) {
			st.s.refuse(name)
			st.gone = append(st.gone, name)
			continue
		}
		// Asking again for what is held sends it again; a client that comes back
		// says what it holds.
		st.subs[name] = ""
		if first {
			st.subs[name] = r.GetInitialResourceVersions()[name]
		}
	}
}

// send tells what differs from what was sent, and nothing else.
func (st *deltaStream) send(have []resource) error {
	m := &discovery.DeltaDiscoveryResponse{TypeUrl: secretType, RemovedResources: st.gone}
	for _, r := range have {
		if sent, wanted := st.subs[r.name]; wanted && sent != r.version {
			m.Resources = append(m.Resources, &discovery.Resource{Name: r.name, Version: r.version, Resource: r.body})
			st.subs[r.name] = r.version
		}
	}
	if len(m.Resources) == 0 && len(m.RemovedResources) == 0 {
		return nil
	}
	slices.Sort(m.RemovedResources)
	st.gone = nil
	st.n++
	m.Nonce = strconv.Itoa(st.n)
	return st.out.Send(m)
}
