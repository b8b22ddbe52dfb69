package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/serve"
)

// peer is the node at the other end of an ADS stream, by its certificate.
func (s *Server) peer(ctx context.Context) (string, error) {
	node, _, err := callingNode(ctx, s.tokens)
	return node, err
}

// identify says which proxy an ADS stream belongs to: the node by its
// certificate, the service by the registries, and never by what the stream says.
func (s *Server) identify(ctx context.Context, h serve.Hello) (string, error) {
	node, _, err := callingNode(ctx, s.tokens)
	if err != nil {
		return "", err
	}
	id, err := mesh.ParseProxyID(h.ID)
	if err != nil {
		return "", status.Errorf(codes.InvalidArgument, "node id %s: %v", mesh.Quote(h.ID), err)
	}
	if id.Node != node {
		s.log.Named("audit").Warn("refused: a node asked for another node's proxy", "node", node, "proxy", id.String())
		return "", status.Errorf(codes.PermissionDenied, "this connection is node %s, which has no business with a proxy of node %s", node, mesh.Quote(id.Node))
	}
	if !s.placed(id) {
		s.log.Named("audit").Warn("refused: a node asked for a service that no registry places on it", "node", node, "proxy", id.String())
		return "", status.Errorf(codes.PermissionDenied, "no registry places service %s on node %s; register it there, or write node = %q into its instance block", id.Service, node, node)
	}
	return id.String(), nil
}

// placed says whether a registry places a proxy's service on its node.
func (s *Server) placed(id mesh.ProxyID) bool {
	return slices.ContainsFunc(s.hub.Snapshot().Node(id.Node), func(in *mesh.Instance) bool {
		return in.Service == id.Service && in.Workload == id.Workload
	})
}

// introduction is node.metadata "kerege": how traffic reaches a proxy.
type introduction struct {
	InboundPort  uint16 `json:"inbound_port"`
	OutboundPort uint16 `json:"outbound_port"`
	Explicit     []struct {
		Service   mesh.ServiceName `json:"service"`
		Port      uint16           `json:"port"`
		LocalPort uint16           `json:"local_port"`
	} `json:"explicit"`
	Accept []plan.Accept `json:"accept"`
	NoIPv6 bool          `json:"no_ipv6"`
	Bridge []netip.Addr  `json:"bridge"`
}

// introduced reads what a proxy says of itself.
func introduced(id mesh.ProxyID, metadata map[string]any) (plan.Node, error) {
	text, err := json.Marshal(metadata["kerege"])
	if err != nil {
		return plan.Node{}, fmt.Errorf("reading node metadata: %w", err)
	}
	var in introduction
	if err := json.Unmarshal(text, &in); err != nil {
		return plan.Node{}, fmt.Errorf("reading node metadata: %w", err)
	}
	n := plan.Node{ID: id, InboundPort: in.InboundPort, OutboundPort: in.OutboundPort, Accept: in.Accept, NoIPv6: in.NoIPv6, Bridge: in.Bridge}
	for _, e := range in.Explicit {
		n.Explicit = append(n.Explicit, plan.Explicit{Service: e.Service, Port: e.Port, LocalPort: e.LocalPort})
	}
	return n, nil
}

// opened and closed tell the planner who is there.
func (s *Server) opened(id string, h serve.Hello) {
	pid, err := mesh.ParseProxyID(id)
	if err != nil {
		s.log.Error("a stream of no proxy", "proxy", id, "error", err)
		return
	}
	n, err := introduced(pid, h.Metadata)
	if err != nil {
		s.log.Warn("a proxy says nothing of its ports that can be read; it gets no listeners", "proxy", id, "error", err)
		n = plan.Node{ID: pid}
	}
	s.planner.open(n)
}

func (s *Server) closed(id string, left int) {
	if pid, err := mesh.ParseProxyID(id); err == nil && left == 0 {
		s.planner.close(pid)
	}
}
