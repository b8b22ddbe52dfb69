package server

import (
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// What a connection to the port of nodes may cost before it has shown a
// certificate. A join is one request of a few hundred bytes.
const (
	strangerBytes  = 64 << 10
	strangerTime   = 15 * time.Second
	handshakeTime  = 10 * time.Second
	maxHeaderBytes = 16 << 10
)

// nodeOptions keep strangers cheap: of all that nodes may call, only Join is
// begun for them, and their connections have a budget. So have those of nodes.
func (s *Server) nodeOptions() []grpc.ServerOption {
	s.intakes = newIntakes(func(node string, why error) {
		s.log.Warn("a connection of a node is closed", "node", node, "why", why)
	})
	return []grpc.ServerOption{
		grpc.Creds(wary{credentials.NewTLS(s.cert.GRPC()), s.intakes}),
		grpc.InTapHandle(s.intakes.tap),
		grpc.MaxConcurrentStreams(nodeStreamsOpen),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(16 * streamWindow),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.UnaryInterceptor(s.metrics.unary),
		// Before a stream counts for anything or a byte of its messages is taken.
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if _, _, err := callingNode(ss.Context(), s.tokens); err != nil {
				level := hclog.Warn
				if status.Code(err) == codes.Unauthenticated {
					level = hclog.Debug // a stranger must not fill the disk either
				}
				s.log.Log(level, "a stream is refused", "address", addressOf(ss.Context()), "why", status.Convert(err).Message())
				return err
			}
			if strings.HasPrefix(info.FullMethod, "/envoy.") && s.frost.cold() != nil {
				return status.Error(codes.Unavailable, "the mesh is frozen since before this server's start: go on with what you have")
			}
			return handle(srv, ss)
		}),
	}
}

// wary are credentials that put connections on a budget: each without a client's
// certificate, and those of a node together.
type wary struct {
	credentials.TransportCredentials
	in *intakes
}

func (w wary) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	tls, _ := info.(credentials.TLSInfo)
	node := nameIn(tls)
	if node == "" {
		s := &stranger{Conn: conn}
		s.left.Store(strangerBytes)
		s.over = time.AfterFunc(strangerTime, func() { conn.Close() })
		return s, info, nil
	}
	if conn, err = w.in.meter(conn, node); err != nil {
		return nil, nil, err
	}
	return conn, info, nil
}

// Clone keeps the budget where gRPC copies credentials.
func (w wary) Clone() credentials.TransportCredentials {
	return wary{w.TransportCredentials.Clone(), w.in}
}

type stranger struct {
	net.Conn
	left atomic.Int64
	over *time.Timer
}

var errTooMuch = errors.New("a connection without a certificate has sent more than a join needs")

func (s *stranger) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.left.Add(int64(-n)) < 0 {
		s.Close()
		return 0, errTooMuch
	}
	return n, err
}

func (s *stranger) Close() error {
	s.over.Stop()
	return s.Conn.Close()
}
