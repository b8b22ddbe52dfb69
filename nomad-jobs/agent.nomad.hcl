# kerege's agent, one on every client. As root, because it enters the network
# namespaces of allocations and captures there. A restart of it loses no call.
variable "servers" {
  type        = list(string)
  description = "host:port of kerege's servers, as every client reaches them."
}

job "kerege-agent" {
  type     = "system"
  priority = 90

  group "agent" {
    task "agent" {
      driver       = "raw_exec"
      kill_timeout = "15s"

      config {
        command = "/usr/local/bin/kerege"
        args    = ["agent", "-config", "${NOMAD_TASK_DIR}/agent.hcl"]
      }

      template {
        destination = "${NOMAD_TASK_DIR}/agent.hcl"
        change_mode = "restart"
        data        = <<-EOT
          node       = "{{ env "node.unique.name" }}"
          retry_join = ${jsonencode(var.servers)}

          envoy {
            user = "kerege-envoy"
          }
        EOT
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
