package plan

import (
	"slices"

	"github.com/kerege/kerege/mesh"
)

// checks are what the host asks of a captured allocation: of its inbound ports
// alone, as every other port is not captured. A host's own workloads have none:
// what asks them from there comes over loopback, past capture.
func checks(v *View, p *Proxy) (list []mesh.Probe) {
	n := p.Node
	if n.InboundPort == 0 || n.ID.Workload == "" || v.Service(n.ID.Service) == nil {
		return nil
	}
	for _, in := range v.Instances(n.ID.Service) {
		if in.Barred != "" || in.Node != n.ID.Node || in.Workload != n.ID.Workload || in.Allocation == nil {
			continue
		}
		for _, c := range in.Allocation.Probes {
			captured := slices.ContainsFunc(p.Inbound, func(i *Inbound) bool { return i.Number == c.Port })
			if captured && (c.From.IsValid() || len(n.Bridge) > 0) {
				list = append(list, c)
			}
		}
	}
	slices.SortFunc(list, mesh.Probe.Compare)
	return slices.Compact(list)
}
