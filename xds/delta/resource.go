package delta

import "google.golang.org/protobuf/types/known/anypb"

// Resource is one xDS resource, marshalled and hashed once and shared by all
// who are sent it. It is never changed.
type Resource struct {
	Type    string // type URL
	Name    string
	Version string // hash of Body.Value: equal bytes, equal version, on every server
	Body    *anypb.Any
	Cause   any // what it was made from, for status; a mesh.Key in kerege
}

// Group is resources that belong together (one upstream's, one inbound port's)
// and are shared by pointer between proxies. Never changed.
type Group struct {
	Key       string      // unique within a Set
	Resources []*Resource // sorted by type, then name
}

// Set is all that one proxy should have: the groups, sorted by Key. Never
// changed. Comparing two sets costs one pointer comparison for each group that
// they share.
type Set struct {
	Groups []*Group
}

// Type URLs, in the order in which additions are sent.
const (
	TypeSecret    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	TypeCluster   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	TypeListener  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeRoute     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	TypeExtension = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)
