# Settings of a node's agent: /etc/kerege.d/agent.hcl, with everything that is seldom needed.
node           = "vm-12"
retry_join     = ["10.0.0.5:7401", "kerege.service.consul:7401"]
cache_key_file = "/run/credentials/kerege-agent.service/cache-key"
log_level      = "info"

join {
  token_file = "/etc/kerege.d/secrets/join-token"
}

envoy {
  path          = "/usr/bin/envoy"
  concurrency   = 2
  drain_delay   = "5s"
  drain_timeout = "30s"
}

workload "web" {
  user  = "web"
  ports = [8080]

  capture {
    exclude_outbound_ports = [25]
  }
}

workload "batch" {
  slice = "batch.slice"
}

capture { # of every workload; the agent's own exclusions always stay
  never_capture_ports = [2222]
  exclude_addresses   = ["169.254.169.254/32"]
  on_envoy_down       = "closed"
}

dns {
  domain    = "mesh"
  scope     = "workloads"
  upstreams = ["10.0.0.2:53"]
}
