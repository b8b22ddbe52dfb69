package server

import (
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// evict and ban are POST /v1/nodes/{node}/evict and /ban.
func (s *Server) evict(r *http.Request) (any, error) {
	return s.away(r.PathValue("node"), "evicted", s.tokens.Evict)
}

func (s *Server) ban(r *http.Request) (any, error) {
	var req api.BanRequest
	if err := readAny(r, &req); err != nil {
		return nil, err
	}
	if len(req.Reason) > maxReason {
		return nil, fail(http.StatusBadRequest, "the reason is longer than a line", "")
	}
	return s.away(r.PathValue("node"), "banned", func(node string) error { return s.tokens.Ban(node, req.Reason) })
}

const maxReason = 500 // bytes

// unban is POST /v1/nodes/{node}/unban.
func (s *Server) unban(r *http.Request) (any, error) {
	node := r.PathValue("node")
	for _, n := range s.tokens.Nodes() {
		if n.Name == node && n.Banned != "" {
			return struct{}{}, s.tokens.Unban(node)
		}
	}
	return nil, fail(http.StatusNotFound, "no node "+mesh.Quote(node)+" is banned", "")
}

// away sends a node away: from now on its certificate is refused, what of it was
// in the mesh is out and its proxies' streams end. Its own stream hears of it
// within evictEvery.
func (s *Server) away(node, how string, send func(string) error) (any, error) {
	if !s.knows(node) {
		return nil, fail(http.StatusNotFound, "no node "+mesh.Quote(node)+" has joined", "kerege status lists those that have.")
	}
	out := api.NodeAway{Node: node, Services: []string{}, LeafTTLSeconds: s.ca.Status().LeafTTL.Seconds()}
	err := s.nodeStreams.settled(func() error {
		if err := send(node); err != nil {
			return err
		}
		for _, m := range s.hub.Members().List() {
			if m.Node == node {
				out.Services = append(out.Services, memberName(string(m.Service), m.Workload))
			}
		}
		s.putTrust()
		return s.hub.Members().Replace(node)
	})
	out.Streams = s.drop(node, how)
	if err != nil {
		return nil, err
	}
	slices.Sort(out.Services)
	s.log.Named("audit").Info("node sent away", "node", node, "how", how, "services", out.Services, "streams", out.Streams)
	return out, nil
}

// putTrust tells the mesh who is trusted: what ends in the roots, less what nodes
// have that were sent away.
func (s *Server) putTrust() {
	s.hub.Put(mesh.Part{Source: "ca", Bundle: s.ca.Bundle(), Away: s.tokens.Away()})
}

// longestOpen is how long a connection can be of use that a node opened which was
// sent away: its certificate lives as long, and HTTP on it a day more.
func (s *Server) longestOpen() time.Duration {
	return 30*s.ca.Status().LeafTTL + 25*time.Hour
}

// drop ends the streams of a node's proxies.
func (s *Server) drop(node, how string) int {
	return s.ads.Drop(node, status.Errorf(codes.PermissionDenied, "the node %s was %s", mesh.Quote(node), how))
}

// knows says whether there is anything to send away under a name.
func (s *Server) knows(node string) bool {
	return slices.ContainsFunc(s.nodeStatus(), func(n api.Node) bool { return n.Name == node }) ||
		slices.ContainsFunc(s.tokens.Nodes(), func(n ca.JoinedNode) bool { return n.Name == node })
}
