package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

// evict and ban are POST /v1/nodes/{node}/evict and /ban.
func (s *Server) evict(r *http.Request) (any, error) {
	node := r.PathValue("node")
	if !s.knows(node) {
		var names []mesh.ServiceName // as far as likeness goes
		for _, n := range s.hosts() {
			names = append(names, mesh.ServiceName(n.Name))
		}
		return nil, fail(http.StatusNotFound, "no node "+mesh.Quote(node)+" has joined, and nothing is on one",
			config.DidYouMean(mesh.ServiceName(node), names)+"kerege node list has those that are known; kerege node ban keeps any name out.")
	}
	return s.away(node, "evicted", s.tokens.Evict)
}

func (s *Server) ban(r *http.Request) (any, error) {
	var req api.BanRequest
	if err := readAny(r, &req); err != nil {
		return nil, err
	}
	if err := checkReason(req.Reason); err != nil {
		return nil, err
	}
	node := r.PathValue("node")
	if err := mesh.CheckNode(node); err != nil {
		return nil, fail(http.StatusBadRequest, "the node's name "+mesh.Quote(node)+" "+err.Error(), "")
	}
	return s.away(node, "banned", func(node string) error { return s.tokens.Ban(node, req.Reason) })
}

const maxReason = 500 // bytes

// checkReason is of what an operator gives for others to read.
func checkReason(text string) error {
	if len(text) > maxReason || strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
		return fail(http.StatusBadRequest, fmt.Sprintf("a reason is one line of %d bytes at most", maxReason), "")
	}
	return nil
}

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
// within evictEvery. That holds while it is frozen, too: callers are told of it and
// of nothing else.
func (s *Server) away(node, how string, send func(string) error) (any, error) {
	out := api.NodeAway{Node: node, Services: []string{}, LeafTTLSeconds: s.ca.Status().LeafTTL.Seconds()}
	var unkept error
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
		unkept = s.hub.Members().Replace(node)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.Streams = s.drop(node, how)
	out.Late = !s.planner.sentAway(node, s.tokens.Away())
	if unkept != nil {
		s.unkept.Store(true)
		return nil, fmt.Errorf("the node is %s, and what of it is in the mesh stays there until this can be written down, which is tried every second: %w", how, unkept)
	}
	slices.Sort(out.Services)
	s.log.Named("audit").Info("node sent away", "node", node, "how", how, "services", out.Services, "streams", out.Streams)
	return out, nil
}

// keepOut takes out of the mesh what nodes have there that were sent away: what a
// crash or a full disk kept away from doing. It tries until that is on disk.
func (s *Server) keepOut(ctx context.Context) error {
	tick := time.NewTicker(keepOutEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.unkept.Load() {
			s.sweep()
		}
	}
}

const keepOutEvery = time.Second

// sweep is one try of keepOut.
func (s *Server) sweep() {
	s.unkept.Store(false)
	err := s.nodeStreams.settled(func() error {
		in := map[string]bool{}
		for _, m := range s.hub.Members().List() {
			in[m.Node] = true
		}
		for _, n := range s.tokens.Nodes() {
			if (n.Evicted || n.Banned != "") && in[n.Name] {
				if err := s.hub.Members().Replace(n.Name); err != nil {
					return err
				}
				s.log.Named("audit").Warn("out of the mesh: what was there of a node that was sent away before", "node", n.Name)
			}
		}
		return nil
	})
	if err != nil {
		s.unkept.Store(true)
		s.log.Error("who was sent away is still in the mesh: it cannot be written down", "again_in", keepOutEvery, "error", err)
	}
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

// knows says whether there is anything to send away under a name: it has joined,
// is connected, in the mesh, placed by a registry, or may join.
func (s *Server) knows(node string) bool {
	return slices.ContainsFunc(s.hosts(), func(n api.Node) bool { return n.Name == node }) ||
		len(s.hub.Snapshot().Node(node)) > 0 || s.tokens.Expects(node)
}
