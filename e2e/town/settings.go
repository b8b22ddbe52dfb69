package town

import "fmt"

// serverSettings is server.hcl: everything in the host's own folder, and
// certificates that live a minute, so that a renewal can be watched.
func (t *Town) serverSettings() string {
	text := fmt.Sprintf(`name        = "server"
data_dir    = "%[1]s/data"
run_dir     = "%[1]s/run"
mesh        = ["%[1]s/etc/mesh"]
advertise   = "%[2]s"
first_grace = "2s"

addresses {
  grpc  = ":7401"
  https = "none"
}

ca {
  leaf_ttl = "60s"
}
`, t.Server.Dir, t.Server.IP)
	if t.ConsulHost != nil {
		text += fmt.Sprintf("\nconsul {\n  address = \"%s:8500\"\n}\n", t.ConsulHost.IP)
	}
	return text + t.ServerExtra
}

// agentSettings is agent.hcl.
func (h *Host) agentSettings() string {
	return fmt.Sprintf(`node       = %[1]q
data_dir   = "%[2]s/data"
run_dir    = "%[2]s/run"
retry_join = ["%[3]s:7401"]

workload %[4]q {
  user = "%[5]d"
}

envoy {
  concurrency = 1
%[8]s}

capture {
  exclude_users = ["%[6]d"]
%[7]s}
`, h.Name, h.Dir, h.town.Server.IP, h.Service, UIDApp, UIDEnvoy, h.CaptureExtra, h.EnvoyExtra) + h.AgentExtra
}
