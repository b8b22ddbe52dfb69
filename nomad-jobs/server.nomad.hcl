# kerege's server, where Nomad runs it. Its state (the CA, who has joined) is in
# /var/lib/kerege/server of its node: keep it there by the constraint's name.
job "kerege-server" {
  type = "service"

  # constraint {
  #   attribute = "${node.unique.name}"
  #   value     = "vm-1"
  # }

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
