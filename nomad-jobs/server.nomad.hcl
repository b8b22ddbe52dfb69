# kerege's server, on one client. Its state (the CA, who has joined) is in
# /var/lib/kerege/server there: on another client it would be another mesh, with a
# new CA that no host believes. So it stays, and waits while its client is drained or away.
variable "node" {
  type        = string
  description = "Name of the client that has the server's state, as `nomad node status` shows it."
}

job "kerege-server" {
  type = "service"

  constraint {
    attribute = "${node.unique.name}"
    value     = var.node
  }

  group "server" {
    count = 1

    task "server" {
      driver = "raw_exec"

      config {
        command = "/usr/local/bin/kerege"
        args    = ["server", "-config", "${NOMAD_TASK_DIR}/server.hcl"]
      }

      template {
        destination = "${NOMAD_TASK_DIR}/server.hcl"
        change_mode = "restart"
        data        = <<-EOT
          name      = "kerege-1"
          advertise = "{{ env "attr.unique.network.ip-address" }}"
          mesh      = ["/etc/kerege.d/mesh"]

          nomad {
            address = "http://127.0.0.1:4646"
          }

          consul {
            address = "http://127.0.0.1:8500"
          }
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
