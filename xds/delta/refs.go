package delta

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// Ref names a resource that another one needs.
type Ref struct{ Type, Name string }

// Refs are the resources that r names and that come over the same stream:
// clusters, endpoints, routes, extensions and secrets. They are read from the
// bytes, so that they are right whoever made the resource. The list must not be
// changed.
func (r *Resource) Refs() []Ref {
	r.refsOnce.Do(func() {
		var m proto.Message
		switch r.Type {
		case TypeCluster:
			m = &clusterv3.Cluster{}
		case TypeListener:
			m = &listenerv3.Listener{}
		case TypeRoute:
			m = &routev3.RouteConfiguration{}
		default:
			return
		}
		if proto.Unmarshal(r.Body.GetValue(), m) != nil {
			return // the client will say so; until then it names nothing
		}
		f := finder{seen: map[Ref]bool{}}
		f.walk(m.ProtoReflect(), 0)
		r.refs = f.refs
	})
	return r.refs
}

type finder struct {
	seen map[Ref]bool
	refs []Ref
}

func (f *finder) add(typ, name string) {
	ref := Ref{typ, name}
	if name == "" || f.seen[ref] {
		return
	}
	f.seen[ref] = true
	f.refs = append(f.refs, ref)
}

// maxDepth bounds the walk; Envoy's own nesting stays far below.
const maxDepth = 64

// walk visits m and all messages in it, and looks into an Any whose type is
// linked in.
func (f *finder) walk(m protoreflect.Message, depth int) {
	if depth > maxDepth {
		return
	}
	f.visit(m.Interface())
	if a, ok := m.Interface().(*anypb.Any); ok {
		if inner, err := a.UnmarshalNew(); err == nil {
			f.walk(inner.ProtoReflect(), depth+1)
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					f.walk(v.Message(), depth+1)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				f.walk(v.List().Get(i).Message(), depth+1)
			}
		default:
			f.walk(v.Message(), depth+1)
		}
		return true
	})
}

func (f *finder) visit(m proto.Message) {
	switch m := m.(type) {
	case *clusterv3.Cluster:
		if e := m.GetEdsClusterConfig(); e.GetEdsConfig().GetAds() != nil {
			if e.GetServiceName() != "" {
				f.add(TypeEndpoints, e.GetServiceName())
			} else {
				f.add(TypeEndpoints, m.GetName())
			}
		}
	case *routev3.RouteAction:
		f.add(TypeCluster, m.GetCluster())
	case *routev3.WeightedCluster_ClusterWeight:
		f.add(TypeCluster, m.GetName())
	case *routev3.RouteAction_RequestMirrorPolicy:
		f.add(TypeCluster, m.GetCluster())
	case *tcpv3.TcpProxy:
		f.add(TypeCluster, m.GetCluster())
	case *tcpv3.TcpProxy_WeightedCluster_ClusterWeight:
		f.add(TypeCluster, m.GetName())
	case *hcmv3.Rds:
		if m.GetConfigSource().GetAds() != nil {
			f.add(TypeRoute, m.GetRouteConfigName())
		}
	case *hcmv3.HttpFilter:
		if m.GetConfigDiscovery().GetConfigSource().GetAds() != nil {
			f.add(TypeExtension, m.GetName())
		}
	case *listenerv3.Filter:
		if m.GetConfigDiscovery().GetConfigSource().GetAds() != nil {
			f.add(TypeExtension, m.GetName())
		}
	case *tlsv3.SdsSecretConfig:
		if m.GetSdsConfig().GetAds() != nil {
			f.add(TypeSecret, m.GetName())
		}
	}
}
