mesh {
  trust_domain = "prod.example"
  mtls         = "permissive"
}

defaults "*" {
  timeout      = "none"
  idle_timeout = "5m"

  retry {
    times  = 0
    on     = ["connect-failure", "503"]
    budget = "12.5%"
  }
}

defaults "batch-*" {
  timeout = "1d"
  nodes   = ["vm-1"]
  jobs    = ["batch/*"]
}

service "web" {
  protocol          = "http2"
  mtls              = "strict"
  default_intention = "allow"

  source "consul" {
    service     = "Web_Frontend"
    datacenters = ["dc1", "dc2"]
    filter      = "kerege in Service.Tags"
  }

  instance "b" {
    address = "10.0.0.8"
    port    = 8080
  }

  instance "a" {
    address = "::ffff:10.0.0.7"
    port    = 8080
    node    = "vm-7.example"
    tags    = ["z", "a"]
    meta    = { version = "v1", "a.b" = "c" }
    weight  = 3
  }

  port "https" {
    port     = 8443
    protocol = "tls"
  }

  port "http" {
    port = 8080
    mtls = "disabled"
  }

  subset "v2" { filter = "Service.Meta.version == v2" }
  subset "v1" { filter = "Service.Meta.version == v1" }

  balance {
    policy = "ring_hash"
    hash { source_ip = true }
  }

  limits { max_connections = 1 }

  outlier {
    at_most = "50%"
    off     = true
  }
}

route "web" {
  rule "all-of-it" {
    port         = "http"
    timeout      = "3s"
    idle_timeout = "none"

    match {
      path_prefix = "/v1/"
      methods     = ["GET", "PURGE"]
      from        = ["api"]
      header "x-a" { exact = "" }
      header "x-a" {
        in     = ["a", "b"]
        invert = true
      }
      header "x-b" { present = false }
      query "q" {
        prefix      = "x"
        ignore_case = true
      }
    }

    match { path_regex = "/u/(\\d+)" }

    retry {
      times       = 10
      any_method  = true
      per_try     = "800ms"
      backoff     = "25ms"
      backoff_max = "250ms"
    }

    to "web.v1" { weight = 33.33 }
    to "web.v2" {
      weight   = 0.01
      if_empty = "fail"
    }
    to "api" {}

    rewrite { host = "users.internal" }
    request_headers {
      set    = { "x-route" = "checkout" }
      add    = { "x-more" = "$${not a template}" }
      remove = ["x-debug"]
    }
    response_headers { remove = ["server"] }
  }

  rule "to-https" {
    match { path = "/old" }
    redirect { scheme = "https" }
  }

  rule "text" {
    match { grpc_service = "a.b.C" }
    respond {
      status = 418
      body   = <<EOT
short
and stout
EOT
    }
  }
}

intention "*" {
  deny {
    name   = "closed"
    from   = ["guest-*"]
    except = ["guest-1"]
  }
}

intention "web" {
  allow {
    from       = ["*"]
    methods    = ["GET"]
    path_regex = "/a|/b"
    ports      = ["http", "https"]
  }

  open = "finish"
}
