package main

import (
	"fmt"
	"strings"

	"github.com/kerege/kerege/e2e/town"
)

// meshText is the whole mesh of the demo. With Consul, the instances come from
// its catalog and are not written here.
func meshText(t *town.Town, consul bool, intention string) string {
	instance := func(host string) string {
		if consul {
			return ""
		}
		h := t.Hosts[host]
		return fmt.Sprintf(`
  instance %q {
    address = %q
    port    = 8080
    node    = %q
    meta    = { version = %q }
  }
`, host, h.IP, h.Name, h.Version)
	}
	return fmt.Sprintf(`mesh {
  trust_domain = "demo.example"
}

service "web" {
  protocol = "http"
%s}

service "api" {
  protocol = "http"
%s%s
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }

  outlier {
    consecutive_5xx = 3
    interval        = "1s"
    eject           = "3s"
  }
}

route "api" {
  rule "canary" {
    match { path_prefix = "/checkout" }
    to "api.v2" { weight = 10 }
    to "api.v1" {}
  }
}

%s`, instance("web"), instance("api1"), instance("api2"), intention)
}

const allowWeb = `intention "api" {
  allow { from = ["web"] }
}
`

const denyWeb = `intention "api" {
  deny {
    name = "closed-for-repairs"
    from = ["web"]
  }
}
`

// where finds the line of the mesh file that begins with the fragment: "mesh.hcl:12".
func where(text, fragment string) string {
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), fragment) {
			return fmt.Sprintf("mesh.hcl:%d", i+1)
		}
	}
	return "mesh.hcl"
}
