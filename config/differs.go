package config

import (
	"reflect"
	"slices"
)

// Differs names, as settings files spell them and sorted, the settings in which b
// is another than a.
func (a *Agent) Differs(b *Agent) []string {
	x, y := *a, *b
	x.Workloads, y.Workloads = withoutPlaces(a.Workloads), withoutPlaces(b.Workloads)
	return differing(x, y, map[string]string{"Node": "node", "DataDir": "data_dir", "RunDir": "run_dir", "RetryJoin": "retry_join", "Join": "join",
		"CacheKeyFile": "cache_key_file", "Metrics": "metrics", "Envoy": "envoy", "Workloads": "workload", "Capture": "capture", "DNS": "dns", "Consul": "consul",
		"Nomad": "nomad"})
}

// Differs names, as settings files spell them and sorted, the settings in which b
// is another than a.
func (a *Server) Differs(b *Server) []string {
	return differing(*a, *b, map[string]string{"Name": "name", "DataDir": "data_dir", "RunDir": "run_dir", "MeshPaths": "mesh", "Advertise": "advertise",
		"Addresses": "addresses", "TLS": "tls", "Consul": "consul", "Nomad": "nomad", "CA": "ca", "FirstGrace": "first_grace"})
}

// withoutPlaces drops where in their files the blocks are.
func withoutPlaces(list []Workload) []Workload {
	list = slices.Clone(list)
	for i := range list {
		list[i].Pos = Position{}
	}
	return list
}

func differing(a, b any, names map[string]string) []string {
	var out []string
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		field := x.Type().Field(i).Name
		if field == "Log" {
			l, m := x.Field(i).Interface().(Log), y.Field(i).Interface().(Log)
			if l.Level != m.Level {
				out = append(out, "log_level")
			}
			if l.JSON != m.JSON {
				out = append(out, "log_json")
			}
			continue
		}
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			out = append(out, names[field])
		}
	}
	slices.Sort(out)
	return out
}
