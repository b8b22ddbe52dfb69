# The sample of kerege dev. It is applied when you save it: try another weight,
# or take the intention away.

mesh {
  trust_domain = "dev.example"
}

service "web" {
  protocol = "http"

  instance "web" {
    address = "127.0.0.1"
    port    = {{.web}}
  }
}

service "api" {
  protocol = "http"

  instance "v1" {
    address = "127.0.0.1"
    port    = {{.v1}}
    meta    = { version = "1" }
  }
  instance "v2" {
    address = "127.0.0.1"
    port    = {{.v2}}
    meta    = { version = "2" }
  }

  subset "v1" { filter = "Service.Meta.version == 1" }
  subset "v2" { filter = "Service.Meta.version == 2" }
}

route "api" {
  rule "canary" {
    to "api.v1" { weight = 90 }
    to "api.v2" { weight = 10 }
  }
}

intention "api" {
  allow { from = ["web"] }
}
