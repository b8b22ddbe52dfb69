# kerege's agent, one on every client. As root, because it enters the network
# namespaces of allocations and captures there. A restart of it loses no call.
variable "servers" {
  type        = list(string)
  default     = []
  description = "host:port of kerege's servers, for every client; left out, each looks on its own."
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
          retry_join = ${length(var.servers) > 0 ? jsonencode(var.servers) : "[\"{{ env \"attr.unique.network.ip-address\" }}:7401\"]"}

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
