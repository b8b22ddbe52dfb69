service "api" {
  port "http" { port = 80 }
  subset "v1" { filter = "Service.Meta.version == v1" }
}

route "api" {
  rule "typo" {
    match { path = "/a" }
    to "api.v2" {} # want: KRG1031 service "api" has no subset "v2"
  }

  rule "typo2" {
    match { path = "/b" }
    to "apii.v1" {} # want: KRG1031 service "apii" has no block here
  }

  rule "rest" {
    to "api.v1" {}
  }
}

intention "api" {
  allow {
    from  = ["web"]
    ports = ["htp"] # want: KRG1031 service "api" has no port "htp"
  }
}
