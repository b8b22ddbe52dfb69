mesh {
  trust_domain = "prod.example"
}

service "api" {
  protocol = "http"

  subset "v1" { filter = "Service.Meta.version == v1" }
}

route "api" {
  rule "a" {
    match { path = "/a" }
    match { methods = ["GET"] }
    to "api.v1" { weight = 90 }
    to "web" {}
  }

  rule "b" {
    timeout = "none"
  }
}

intention "api" {
  allow { from = ["web"] }
  allow { from = ["ops"] }
}
