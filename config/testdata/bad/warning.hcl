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

service "db" {
  protocol = "tcp"
}

route "db" {
  rule "old" {
    match { path = "/old" } # want: KRG1053 its match is of HTTP, and service "db" speaks tcp
    to "db" {}
  }

  rule "rest" {
    to "db" {}
  }
}

intention "db" {
  allow {
    from    = ["web"]
    methods = ["GET"] # want: KRG1053 this allow never matches: methods is of HTTP
  }

  deny {
    from   = ["batch-*", "cron"]
    except = ["batch-*", "cron"] # want: KRG1053 this deny never matches: except takes out all
  }

  allow {
    from   = ["ops", "cron"]
    except = ["cron"]
  }
}
