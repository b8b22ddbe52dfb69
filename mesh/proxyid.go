package mesh

import (
	"fmt"
	"strconv"
	"strings"
)

// String is Envoy's node id: "service/node" or "service/node/workload".
func (id ProxyID) String() string {
	s := string(id.Service) + "/" + id.Node
	if id.Workload != "" {
		s += "/" + id.Workload
	}
	return s
}

// ParseProxyID reads exactly what String writes.
func ParseProxyID(s string) (ProxyID, error) {
	steps := strings.Split(s, "/")
	if len(steps) != 2 && len(steps) != 3 {
		return ProxyID{}, fmt.Errorf("the proxy id %s is not SERVICE/NODE or SERVICE/NODE/WORKLOAD", Quote(s))
	}
	if err := CheckName(steps[0]); err != nil {
		return ProxyID{}, fmt.Errorf("the service in the proxy id %s %w", Quote(s), err)
	}
	for _, n := range steps[1:] {
		if err := CheckNode(n); err != nil {
			return ProxyID{}, fmt.Errorf("the node in the proxy id %s %w", Quote(s), err)
		}
	}
	id := ProxyID{Service: ServiceName(steps[0]), Node: steps[1]}
	if len(steps) == 3 {
		id.Workload = steps[2]
	}
	return id, nil
}

// Compare orders proxies by service, node and workload.
func (id ProxyID) Compare(o ProxyID) int {
	if c := strings.Compare(string(id.Service), string(o.Service)); c != 0 {
		return c
	}
	if c := strings.Compare(id.Node, o.Node); c != 0 {
		return c
	}
	return strings.Compare(id.Workload, o.Workload)
}

// String is "file:line", "file" without a line, "" for the zero Pos.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// MatchName says whether a label or a caller's token (a name, a prefix pattern
// such as "batch-*", or "*") names a service.
func MatchName(token string, name ServiceName) bool {
	if prefix, ok := strings.CutSuffix(token, "*"); ok {
		return strings.HasPrefix(string(name), prefix)
	}
	return token == string(name)
}

// IsPattern says whether a label or token may name more than one service.
func IsPattern(token string) bool { return strings.HasSuffix(token, "*") }
