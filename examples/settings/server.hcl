# Settings of a server: /etc/kerege.d/server.hcl. All of it may be left out but the registries.
name      = "kerege-1"
advertise = "10.0.0.5"
mesh      = ["/etc/kerege.d/mesh"]

addresses {
  grpc    = ":7401"
  https   = ":7402"
  metrics = "127.0.0.1:7403"
}

ca {
  leaf_ttl = "24h"
}

consul { # left out: CONSUL_* in the environment; without the block Consul is not read
  address     = "127.0.0.1:8500"
  token_file  = "/run/credentials/kerege-server.service/consul-token" # systemd's: kerege-server-consul.conf
  datacenters = ["dc2"]
}

nomad {
  address    = "https://127.0.0.1:4646"
  token_file = "/etc/kerege.d/secrets/nomad"
  ca_file    = "/etc/kerege.d/tls/nomad-ca.pem"
}
