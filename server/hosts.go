package server

import (
	"context"
	"slices"
	"strings"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// What a host is to the mesh: api.Node.State.
const (
	nodeIn      = "in"
	nodeJoined  = "joined" // connected, and nothing of it is in
	nodeAway    = "away"   // not connected, and nothing of it is in
	nodeLeft    = "left"
	nodeEvicted = "evicted"
	nodeBanned  = "banned"
)

// nodeStatus is every host that has joined and was not sent away, connected or not,
// and what of it is in.
func (s *Server) nodeStatus() []api.Node {
	return slices.DeleteFunc(s.hosts(), func(n api.Node) bool { return n.State == nodeEvicted || n.State == nodeBanned })
}

// hosts is nodeStatus and those that were sent away, sorted.
func (s *Server) hosts() []api.Node {
	rows := map[string]*api.Node{}
	for _, n := range s.nodes.list() {
		rows[n.Name] = &n
	}
	joined := s.tokens.Nodes()
	for _, j := range joined {
		if rows[j.Name] == nil {
			rows[j.Name] = &api.Node{Name: j.Name, Since: j.Joined, Addresses: []string{}}
		}
	}
	for _, row := range rows {
		row.Services = []string{}
	}
	for _, m := range s.hub.Members().List() {
		row := rows[m.Node]
		if row == nil {
			row = &api.Node{Name: m.Node, Addresses: []string{}}
			rows[m.Node] = row
		}
		row.Services = append(row.Services, memberName(string(m.Service), m.Workload))
	}
	for _, row := range rows {
		slices.Sort(row.Services)
		switch {
		case len(row.Services) > 0:
			row.State = nodeIn
		case row.Connected:
			row.State = nodeJoined
		default:
			row.State = nodeAway
		}
	}
	for _, j := range joined {
		row := rows[j.Name]
		switch {
		case j.Banned != "":
			row.State, row.Reason, row.Since, row.Outside = nodeBanned, j.Banned, j.Since, nil
		case j.Evicted:
			row.State, row.Since, row.Outside = nodeEvicted, j.Since, nil
		case !j.Left.IsZero() && row.State != nodeIn:
			row.State, row.Since, row.Outside = nodeLeft, j.Left, nil
		}
	}
	list := make([]api.Node, 0, len(rows))
	for _, row := range rows {
		list = append(list, *row)
	}
	slices.SortFunc(list, func(a, b api.Node) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Known answers a node that asks whether it is one, and whom a token is for.
func (s *nodeServer) Known(ctx context.Context, in *keregev1.KnownRequest) (*keregev1.KnownResponse, error) {
	if _, _, err := callingNode(ctx, s.admit); err != nil {
		return nil, err
	}
	out := &keregev1.KnownResponse{}
	if in.GetToken() != "" && s.tokenNode != nil {
		out.TokenNode = s.tokenNode(in.GetToken())
	}
	return out, nil
}
