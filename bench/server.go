package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry"
	"github.com/kerege/kerege/server"
)

// runServer is kerege's whole server, as `kerege server` runs it: its own port
// for nodes, mutual TLS, nodes told apart by their certificates, each proxy placed
// on its node by a registry.
func runServer(s shape, dir string, first func()) error {
	authority, err := issueNodes(dir, s)
	if err != nil {
		return err
	}
	if err := authority.Close(); err != nil {
		return fmt.Errorf("closing the CA: %w", err)
	}
	hub := registry.New(registry.Options{DataDir: filepath.Join(dir, "registry")})
	if err := hub.Members().Put(members(s)...); err != nil {
		return err
	}
	file := filepath.Join(dir, "mesh.hcl")
	if err := os.WriteFile(file, []byte("mesh {\n  trust_domain = \""+trustDomain+"\"\n}\n"), 0o600); err != nil {
		return fmt.Errorf("writing the mesh: %w", err)
	}
	ports, err := freePorts(1)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", ports[0])
	ready := make(chan struct{})
	srv, err := server.New(&config.Server{Name: "bench", DataDir: dir, RunDir: filepath.Join(dir, "run"), MeshPaths: []string{file}, Advertise: "127.0.0.1",
		Addresses: config.Addresses{GRPC: at, HTTPS: "none", Metrics: "none"}, CA: config.CA{LeafTTL: time.Hour}, FirstGrace: time.Second},
		server.Options{Version: "bench", Logger: hclog.NewNullLogger(), Part: func(*config.Mesh) mesh.Part { return whole(s) }, Ready: func(string) { close(ready) }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		return errors.Join(errors.New("the server ended"), err)
	}
	say(answer{Addr: at, TLS: dir})
	serveOrders(func(order) answer { first(); return answer{Err: "the whole server takes no changes"} })
	cancel()
	return <-ended
}

// whole is the shape as one source reports it.
func whole(s shape) mesh.Part {
	m := newMemory(s)
	p := settings(s)
	p.Bundle = nil // the server's own CA has one
	for k := range s.S {
		p.Instances = append(p.Instances, m.part(k).Instances...)
	}
	for i := range s.P {
		p.Instances = append(p.Instances, proxyInstance(i))
	}
	return p
}
