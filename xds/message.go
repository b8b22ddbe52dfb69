package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/xds/delta"
)

// writer marshals messages deterministically and remembers the first failure,
// so that builders stay readable. Only invalid UTF-8 can fail.
type writer struct {
	err     error
	scratch []byte // of the last resource
}

func (w *writer) any(m proto.Message) *anypb.Any {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("marshalling a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return &anypb.Any{TypeUrl: typeURL(m), Value: body}
}

const urlPrefix = "type.googleapis.com/"

// typeURL names a message's type; those of resources are one string for all.
func typeURL(m proto.Message) string {
	name := string(m.ProtoReflect().Descriptor().FullName())
	for _, typ := range [...]string{delta.TypeEndpoints, delta.TypeCluster, delta.TypeListener, delta.TypeRoute, delta.TypeExtension, delta.TypeSecret} {
		if typ[len(urlPrefix):] == name {
			return typ
		}
	}
	return urlPrefix + name
}

// resource hashes a message: equal bytes, equal version.
func (w *writer) resource(name string, m proto.Message, cause mesh.Key) *delta.Resource {
	body, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(w.scratch[:0], m)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("marshalling a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	w.scratch = body
	sum := sha256.Sum256(body)
	return delta.Seal(typeURL(m), name, hex.EncodeToString(sum[:16]), body, cause)
}

func u32(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }

func dur(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// off gives Envoy's zero for a duration that is switched off or not said: where
// Envoy reads zero as "never", so that no default of its own gets in.
func off(d time.Duration) *durationpb.Duration { return durationpb.New(max(d, 0)) }
