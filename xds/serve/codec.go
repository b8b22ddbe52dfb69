package serve

import (
	"fmt"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kerege/kerege/xds/delta"
)

// What bounds messages, in bytes.
const (
	maxResponse = 64 << 20
	// A client that reconnects lists every version that it holds: about a hundred
	// bytes each.
	maxRequest = 16 << 20
	// Of other services of the same gRPC server.
	maxOther = 1 << 20
)

// ServerOptions are what the gRPC server that a Server is registered with must
// be made with: the codec that sends frozen bytes, message sizes and keepalive.
// Of other services of the same gRPC server the codec takes smaller requests only.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(maxResponse),
		grpc.SharedWriteBuffer(true),
		grpc.ReadBufferSize(8 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// frame is a response of which everything but the header is shared.
type frame struct {
	bufs mem.BufferSlice
}

// freeze writes the few bytes that are this stream's own and puts the shared
// ones behind them.
func freeze(m *delta.Message) *frame {
	n := len(m.Type) + len(m.Nonce) + 8
	for _, r := range m.Removed {
		n += len(r) + 6
	}
	head := make([]byte, 0, n)
	head = protowire.AppendString(protowire.AppendTag(head, 4, protowire.BytesType), m.Type)
	head = protowire.AppendString(protowire.AppendTag(head, 5, protowire.BytesType), m.Nonce)
	for _, r := range m.Removed {
		head = protowire.AppendString(protowire.AppendTag(head, 6, protowire.BytesType), r)
	}
	bufs := make(mem.BufferSlice, 0, len(m.Resources)+1)
	bufs = append(bufs, mem.SliceBuffer(head))
	for _, r := range m.Resources {
		bufs = append(bufs, mem.SliceBuffer(r.Wire()))
	}
	return &frame{bufs: bufs}
}

// codec sends frames as they are and everything else as the usual codec does. It
// takes in big requests of proxies only: what a message holds costs more memory
// than its bytes.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.bufs, nil
	}
	b, err := c.CodecV2.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("marshalling %T: %w", v, err)
	}
	return b, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, proxy := v.(*discovery.DeltaDiscoveryRequest); !proxy && data.Len() > maxOther {
		return fmt.Errorf("a %T of %d bytes is larger than %d", v, data.Len(), maxOther)
	}
	return c.CodecV2.Unmarshal(data, v)
}
