service "api" {
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }
}

route "api" {
  rule "testers" {
    match {
      header "x-canary" { exact = "yes" }
    }
    to "api.v2" {} # want: KRG1052 calls that no rule takes go to all of api, api.v2 among them
  }
}

route "web" {
  rule "all" {
    timeout = "1s"
  }

  rule "late" { # want: KRG1053 no call reaches rule "late"
    match { path = "/late" }
    timeout = "2s"
  }
}

intention "api" {
  allow { from = ["web", "batch-a"] }
}

intention "*" {
  deny { # want: KRG1050 takes back everything that intention "api" allows
    from   = ["*"]
    except = ["ops"]
  }
}
