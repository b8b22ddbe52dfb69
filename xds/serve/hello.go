package serve

import (
	"context"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Hello is what a proxy says of itself when its stream opens, without Envoy's
// own types, for callers that have no business with them.
type Hello struct {
	ID       string
	Cluster  string
	Metadata map[string]any
}

func hello(n *corev3.Node) Hello {
	return Hello{ID: n.GetId(), Cluster: n.GetCluster(), Metadata: n.GetMetadata().AsMap()}
}

// IdentifyBy makes a Config.Identify of a function of a Hello.
func IdentifyBy(f func(context.Context, Hello) (id string, err error)) func(context.Context, *corev3.Node) (string, error) {
	return func(ctx context.Context, n *corev3.Node) (string, error) { return f(ctx, hello(n)) }
}

// OpenedBy makes a Config.Opened of a function of a Hello.
func OpenedBy(f func(id string, h Hello)) func(string, *corev3.Node) {
	return func(id string, n *corev3.Node) { f(id, hello(n)) }
}
