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
type writer struct{ err error }

func (w *writer) any(m proto.Message) *anypb.Any {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("marshalling a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: body}
}

// resource hashes a message: equal bytes, equal version.
func (w *writer) resource(name string, m proto.Message, cause mesh.Key) *delta.Resource {
	body := w.any(m)
	sum := sha256.Sum256(body.Value)
	return &delta.Resource{Type: body.TypeUrl, Name: name, Version: hex.EncodeToString(sum[:16]), Body: body, Cause: cause}
}

func u32(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }

func dur(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// off gives Envoy's zero for a duration that is switched off or not said: where
// Envoy reads zero as "never", so that no default of its own gets in.
func off(d time.Duration) *durationpb.Duration { return durationpb.New(max(d, 0)) }
