package delta

import "google.golang.org/protobuf/encoding/protowire"

// Ref names a resource that another one needs.
type Ref struct{ Type, Name string }

// Refs are the resources that r names and that come over the same stream:
// clusters, endpoints, routes, extensions and secrets. They are read from the
// bytes, so that they are right whoever made the resource; bytes that are no
// message name nothing. The list must not be changed.
func (r *Resource) Refs() []Ref {
	r.refsOnce.Do(func() {
		f := finder{}
		switch b := r.Body.GetValue(); r.Type {
		case TypeCluster:
			f.cluster(b)
		case TypeListener:
			f.listener(b)
		case TypeRoute:
			f.routes(b)
		}
		if !f.bad { // else the client will say so; until then it names nothing
			r.refs = f.refs
		}
	})
	return r.refs
}

// finder looks only where a name can be, at the wire format: a proxy's own
// listeners are read once for each proxy, and decoding them whole would cost
// more than making them did. The numbers are the fields' of Envoy's messages;
// a test in xds compares with what the decoded messages say.
type finder struct {
	seen map[Ref]bool
	refs []Ref
	bad  bool // not a message
}

func (f *finder) add(typ, name string) {
	ref := Ref{typ, name}
	if name == "" || f.seen[ref] {
		return
	}
	if f.seen == nil {
		f.seen = map[Ref]bool{}
	}
	f.seen[ref] = true
	f.refs = append(f.refs, ref)
}

// at calls do with every field that a path of field numbers leads to.
func (f *finder) at(b []byte, do func([]byte), path ...protowire.Number) {
	for len(b) > 0 && !f.bad {
		num, typ, n := protowire.ConsumeTag(b)
		if f.bad = n < 0; f.bad {
			return
		}
		b = b[n:]
		if typ != protowire.BytesType || num != path[0] {
			if n = protowire.ConsumeFieldValue(num, typ, b); n >= 0 {
				b = b[n:]
			}
			f.bad = n < 0
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if f.bad = n < 0; f.bad {
			return
		}
		b = b[n:]
		if len(path) == 1 {
			do(v)
		} else {
			f.at(v, do, path[1:]...)
		}
	}
}

// last is the last value at a path, as a field that is not repeated has it.
func (f *finder) last(b []byte, path ...protowire.Number) (v []byte) {
	f.at(b, func(found []byte) { v = found }, path...)
	return v
}

// has says whether there is anything at a path, be it empty.
func (f *finder) has(b []byte, path ...protowire.Number) (found bool) {
	f.at(b, func([]byte) { found = true }, path...)
	return found
}

func (f *finder) toCluster(name []byte) { f.add(TypeCluster, string(name)) }

const overADS = 3 // ConfigSource.ads

func (f *finder) cluster(c []byte) {
	f.at(c, func(eds []byte) {
		if !f.has(eds, 1, overADS) { // eds_config
			return
		}
		if service := f.last(eds, 2); len(service) > 0 {
			f.add(TypeEndpoints, string(service))
		} else {
			f.add(TypeEndpoints, string(f.last(c, 1)))
		}
	}, 3) // eds_cluster_config
	f.at(c, f.socket, 24)    // transport_socket
	f.at(c, f.socket, 43, 3) // transport_socket_matches
}

func (f *finder) listener(l []byte) {
	f.at(l, f.chain, 3)  // filter_chains
	f.at(l, f.chain, 25) // default_filter_chain
}

func (f *finder) chain(c []byte) {
	f.at(c, f.socket, 6) // transport_socket
	f.at(c, f.filter, 3) // filters
}

func (f *finder) filter(filter []byte) {
	f.extension(filter)
	f.at(filter, func(a []byte) {
		m := f.last(a, 2)
		switch string(f.last(a, 1)) {
		case urlHCM:
			f.at(m, func(rds []byte) {
				if f.has(rds, 1, overADS) { // config_source
					f.add(TypeRoute, string(f.last(rds, 2)))
				}
			}, 3) // rds
			f.at(m, f.routes, 4)    // route_config
			f.at(m, f.extension, 5) // http_filters
		case urlTCP:
			f.at(m, f.toCluster, 2)        // cluster
			f.at(m, f.toCluster, 10, 1, 1) // weighted_clusters.clusters.name
		}
	}, 4) // typed_config
}

// extension is a filter whose configuration comes by itself; the fields are the
// same for network and HTTP filters.
func (f *finder) extension(filter []byte) {
	if f.has(filter, 5, 1, overADS) { // config_discovery.config_source
		f.add(TypeExtension, string(f.last(filter, 1)))
	}
}

func (f *finder) routes(rc []byte) {
	f.at(rc, f.toCluster, 13, 1)            // request_mirror_policies.cluster
	f.at(rc, f.toCluster, 2, 22, 1)         // virtual_hosts.request_mirror_policies.cluster
	f.at(rc, f.toCluster, 2, 3, 2, 1)       // virtual_hosts.routes.route.cluster
	f.at(rc, f.toCluster, 2, 3, 2, 3, 1, 1) // … .weighted_clusters.clusters.name
	f.at(rc, f.toCluster, 2, 3, 2, 30, 1)   // … .request_mirror_policies.cluster
}

func (f *finder) socket(s []byte) {
	f.at(s, func(a []byte) {
		if url := string(f.last(a, 1)); url != urlUpstream && url != urlDownstream {
			return
		}
		f.at(f.last(a, 2), func(c []byte) {
			f.at(c, f.secret, 6)    // tls_certificate_sds_secret_configs
			f.at(c, f.secret, 7)    // validation_context_sds_secret_config
			f.at(c, f.secret, 8, 2) // combined_validation_context.validation_context_sds_secret_config
		}, 1) // common_tls_context
	}, 3) // typed_config
}

func (f *finder) secret(s []byte) {
	if f.has(s, 2, overADS) { // sds_config
		f.add(TypeSecret, string(f.last(s, 1)))
	}
}

const (
	urlHCM        = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	urlTCP        = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	urlUpstream   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	urlDownstream = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
)
