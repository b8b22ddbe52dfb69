package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// listenMetrics opens the plain port of /metrics and /healthz, where the
// settings ask for one. It answers before the mesh is known, to say so.
func (s *Server) listenMetrics(start func(string, func(context.Context) error)) (stop func(), err error) {
	if s.cfg.Addresses.Metrics == "" || s.cfg.Addresses.Metrics == "none" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", s.cfg.Addresses.Metrics)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.HandleFunc("GET /healthz", s.healthz)
	srv := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	start("serving metrics", func(context.Context) error { return served(srv.Serve(l)) })
	return func() { srv.Close() }, nil
}
