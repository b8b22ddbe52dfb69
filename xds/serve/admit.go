package serve

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// admit counts a stream in, or says why it must come back later. A peer has a
// part of the places only: one that opens streams and says nothing keeps out
// itself.
func (s *Server) admit(st *stream) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[st.caller]
	switch {
	case s.pending >= s.cfg.MaxPending:
		return "too many proxies are waiting for their first configuration"
	case p != nil && s.cfg.Peer != nil && p.pending >= s.cfg.MaxPendingOfPeer:
		return fmt.Sprintf("%d streams of this node are waiting for their first configuration", p.pending)
	case p == nil:
		p = &party{streams: map[*stream]struct{}{}}
		s.peers[st.caller] = p
	}
	p.streams[st] = struct{}{}
	s.waits(st, 1)
	return ""
}

// waits counts a stream among those without a set, or out of them. mu is held.
func (s *Server) waits(st *stream, n int) {
	s.pending += n
	if p := s.peers[st.caller]; p != nil {
		p.pending += n
	}
}

// forget takes a stream out of its peer's. mu is held.
func (s *Server) forget(st *stream) {
	p := s.peers[st.caller]
	delete(p.streams, st)
	if len(p.streams) == 0 {
		delete(s.peers, st.caller)
	}
}

// Drop ends all streams of a peer, those that have not said a word too, and says
// how many there were.
func (s *Server) Drop(peer string, why error) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[peer]
	if p == nil {
		return 0
	}
	for st := range p.streams {
		st.stop(why)
	}
	return len(p.streams)
}

// comeBack refuses a stream with a hint, in both ways that clients read.
func (st *stream) comeBack(why string) error {
	after := st.server.cfg.RetryAfter
	st.grpc.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", fmt.Sprint(after.Milliseconds())))
	e := status.New(codes.ResourceExhausted, fmt.Sprintf("%s; try again in %s", why, after))
	if d, err := e.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
		e = d
	}
	return e.Err()
}
