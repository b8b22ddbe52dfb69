# Two services in the mesh, registered in Consul: web calls http://api.mesh:8080. Each
# group is a plain job
# of Nomad with two tasks of kerege before the application's own.
job "web-api" {
  type = "service"

  group "web" {
    count = 1

    # Callers hear that an allocation stops before its tasks do.
    shutdown_delay = "6s"

    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
    }

    service {
      name = "web"
      port = "http"
      tags = ["kerege-protocol=http"]

      check { # the host's own, and its path alone: the mesh lets nothing else in by plaintext
        type     = "http"
        path     = "/health"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "kerege-envoy" {
      driver       = "raw_exec"
      user         = "kerege-envoy"
      kill_timeout = "45s"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = "/usr/local/bin/kerege"
        args    = ["envoy", "-service", "web", "-workload", "${NOMAD_ALLOC_ID}"]
      }

      identity {
        name        = "kerege"
        aud         = ["kerege"]
        file        = true
        ttl         = "1h"
        change_mode = "noop"
      }

      resources {
        cpu    = 250
        memory = 128
      }
    }

    task "kerege-wait" { # holds the application back until its calls have a way
      driver = "raw_exec"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        command = "/usr/local/bin/kerege"
        args    = ["wait", "-service", "web", "-workload", "${NOMAD_ALLOC_ID}", "-timeout", "60s"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "web" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "cd ${NOMAD_TASK_DIR} && echo ok > health && exec python3 -m http.server 8080"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }

  group "api" {
    count = 2

    # Callers hear that an allocation stops before its tasks do.
    shutdown_delay = "6s"

    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
    }

    service {
      name = "api"
      port = "http"
      tags = ["kerege-protocol=http"]

      check { # the host's own, and its path alone: the mesh lets nothing else in by plaintext
        type     = "http"
        path     = "/health"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "kerege-envoy" {
      driver       = "raw_exec"
      user         = "kerege-envoy"
      kill_timeout = "45s"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = "/usr/local/bin/kerege"
        args    = ["envoy", "-service", "api", "-workload", "${NOMAD_ALLOC_ID}"]
      }

      identity {
        name        = "kerege"
        aud         = ["kerege"]
        file        = true
        ttl         = "1h"
        change_mode = "noop"
      }

      resources {
        cpu    = 250
        memory = 128
      }
    }

    task "kerege-wait" { # holds the application back until its calls have a way
      driver = "raw_exec"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        command = "/usr/local/bin/kerege"
        args    = ["wait", "-service", "api", "-workload", "${NOMAD_ALLOC_ID}", "-timeout", "60s"]
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }

    task "api" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "cd ${NOMAD_TASK_DIR} && echo ok > health && exec python3 -m http.server 8080"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
