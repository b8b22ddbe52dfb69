package server

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/registry"
	"github.com/kerege/kerege/xds/serve"
)

// Planner is a server's planner alone, between a hub and an ADS server that the
// caller runs: what benchmarks measure is what a server does.
type Planner struct{ p *planner }

// NewPlanner makes a planner that fills the mailboxes of ads.
func NewPlanner(log hclog.Logger, ads *serve.Server) *Planner {
	return &Planner{newPlanner(log, ads, func(*mesh.Snapshot, []mesh.Key) {})}
}

// Run follows the hub until ctx ends.
func (p *Planner) Run(ctx context.Context, hub *registry.Hub) error { return p.p.run(ctx, hub) }

// Open says that a proxy has a stream now, Close that it has none any more.
// Neither blocks.
func (p *Planner) Open(n plan.Node)      { p.p.open(n) }
func (p *Planner) Close(id mesh.ProxyID) { p.p.close(id) }
