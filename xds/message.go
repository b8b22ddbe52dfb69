package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
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

// typeURL names a message's type, by one string for all.
func typeURL(m proto.Message) string {
	name := m.ProtoReflect().Descriptor().FullName()
	if url, ok := typeURLs.Load(name); ok {
		return url.(string)
	}
	url := urlPrefix + string(name)
	for _, typ := range [...]string{delta.TypeEndpoints, delta.TypeCluster, delta.TypeListener, delta.TypeRoute, delta.TypeExtension, delta.TypeSecret} {
		if typ == url {
			url = typ
		}
	}
	typeURLs.Store(name, url)
	return url
}

// typeURLs holds one string for each type of message there is.
var typeURLs sync.Map

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

// smallNumbers and shortTimes are most of those in a plan's messages.
var (
	smallNumbers = constant(func(*writer) []*wrapperspb.UInt32Value {
		all := make([]*wrapperspb.UInt32Value, 256)
		for n := range all {
			all[n] = wrapperspb.UInt32(uint32(n))
		}
		return all
	})
	shortTimes = constant(func(*writer) []*durationpb.Duration {
		all := make([]*durationpb.Duration, 61)
		for n := range all {
			all[n] = durationpb.New(time.Duration(n) * time.Second)
		}
		return all
	})
)

func u32(n uint32) *wrapperspb.UInt32Value {
	if n < 256 {
		return smallNumbers()[n]
	}
	return wrapperspb.UInt32(n)
}

// What is the same in every plan is made and marshalled once, and shared between
// messages: nobody changes a message after it was put into another one.
func constant[T any](build func(*writer) T) func() T {
	return sync.OnceValue(func() T { return build(&writer{}) })
}

var isTrue, isFalse = wrapperspb.Bool(true), wrapperspb.Bool(false)

func yes() *wrapperspb.BoolValue { return isTrue }

func no() *wrapperspb.BoolValue { return isFalse }

func dur(d time.Duration) *durationpb.Duration {
	if d >= 0 && d <= time.Minute && d%time.Second == 0 {
		return shortTimes()[d/time.Second]
	}
	return durationpb.New(d)
}

// off gives Envoy's zero for a duration that is switched off or not said: where
// Envoy reads zero as "never", so that no default of its own gets in.
func off(d time.Duration) *durationpb.Duration { return dur(max(d, 0)) }
