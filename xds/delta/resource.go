package delta

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// Resource is one xDS resource, marshalled and hashed once and shared by all
// who are sent it. It is never changed and never copied. The unexported fields
// are memos of what follows from the exported ones, made on first use.
type Resource struct {
	Type    string // type URL
	Name    string
	Version string // hash of Body.Value: equal bytes, equal version, on every server
	Body    *anypb.Any
	Cause   any // what it was made from, for status; a mesh.Key in kerege

	wireOnce, refsOnce sync.Once
	wire               []byte
	refs               []Ref
}

// NewResource makes a resource of marshalled bytes, with their hash as version.
func NewResource(typ, name string, body []byte, cause any) *Resource {
	return Seal(typ, name, Hash(body), body, cause)
}

// Seal makes a resource of marshalled bytes, which it copies: it keeps them once,
// inside of what Wire gives.
func Seal(typ, name, version string, body []byte, cause any) *Resource {
	r := &Resource{Type: typ, Name: name, Version: version, Body: &anypb.Any{TypeUrl: typ, Value: body}, Cause: cause}
	wire := r.Wire()
	end := len(wire) - protowire.SizeTag(3) - protowire.SizeBytes(len(name)) // the name is the last field
	r.Body.Value = wire[end-len(body) : end : end]
	return r
}

// Hash is the version of a resource with these bytes: 64 bits of SHA-256 in hex.
func Hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

// Wire is the resource as one record (tag, length, discovery.Resource) of a
// DeltaDiscoveryResponse's field 2, ready to be written after a header. It is
// marshalled once for all streams and must not be changed.
func (r *Resource) Wire() []byte {
	r.wireOnce.Do(func() {
		typ, value := r.Body.GetTypeUrl(), r.Body.GetValue()
		body := protowire.SizeBytes(len(typ)) + protowire.SizeTag(1)
		if len(value) > 0 {
			body += protowire.SizeBytes(len(value)) + protowire.SizeTag(2)
		}
		size := protowire.SizeBytes(len(r.Version)) + protowire.SizeTag(1) +
			protowire.SizeBytes(body) + protowire.SizeTag(2) +
			protowire.SizeBytes(len(r.Name)) + protowire.SizeTag(3)
		b := make([]byte, 0, size+protowire.SizeTag(2)+protowire.SizeVarint(uint64(size)))
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(size))
		b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), r.Version)
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(body))
		b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), typ)
		if len(value) > 0 {
			b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), value)
		}
		r.wire = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), r.Name)
	})
	return r.wire
}

// Group is resources that belong together (one upstream's, one inbound port's)
// and are shared by pointer between proxies. Never changed.
type Group struct {
	Key       string      // unique within a Set
	Resources []*Resource // sorted by type, then name; of a (type, name) in several groups of a Set one is sent
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
