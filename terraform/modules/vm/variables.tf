variable "role" {
  description = "What the VM is: a kerege server, or a node of the mesh."
  type        = string

  validation {
    condition     = contains(["server", "node"], var.role)
    error_message = "role is \"server\" or \"node\"."
  }
}

variable "name" {
  description = "The VM's name, as Consul knows it: a node's identity is made of it."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", var.name))
    error_message = "name is lower-case letters, digits, '-' and '.', at most 63 characters, beginning and ending with a letter or digit."
  }
}

variable "servers" {
  description = "Where a node finds the servers: host:port each."
  type        = list(string)
  default     = ["kerege.service.consul:7401"]

  validation {
    condition     = length(var.servers) > 0 && alltrue([for s in var.servers : can(regex("^[^\\s:]+:[0-9]{1,5}$", s))])
    error_message = "servers is a list of host:port, at least one."
  }
}

variable "join_token" {
  description = "A node's one-time join token (kerege token create -node NAME). It ends up in the instance's user data: give it a short life."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = var.join_token == "" || can(regex("^kj_[A-Za-z0-9_.-]+$", var.join_token))
    error_message = "join_token begins with kj_, as `kerege token create` prints it."
  }
}

variable "package_url" {
  description = "Where the kerege package or binary is downloaded from at boot; empty when the image has it."
  type        = string
  default     = ""

  validation {
    condition     = var.package_url == "" || can(regex("^https://", var.package_url))
    error_message = "package_url is an https:// URL."
  }
}

variable "package_sha256" {
  description = "SHA-256 of what package_url gives; needed when package_url is set."
  type        = string
  default     = ""

  validation {
    condition     = var.package_sha256 == "" || can(regex("^[0-9a-f]{64}$", var.package_sha256))
    error_message = "package_sha256 is 64 lower-case hex digits."
  }
}

variable "consul_address" {
  description = "A server's way to Consul: host:port, a URL, or unix:///path. Empty: no consul block, Consul is not read."
  type        = string
  default     = ""
}

variable "consul_token" {
  description = "A server's ACL token for Consul; empty: none. It ends up in the instance's user data."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = can(regex("^[!-~]*$", var.consul_token))
    error_message = "consul_token is one word, as Consul prints a SecretID."
  }
}

variable "advertise" {
  description = "The address or name under which agents and operators reach a server; empty: the server finds it."
  type        = string
  default     = ""
}

variable "mesh_files" {
  description = "A server's mesh: file name (ending in .hcl) to HCL text."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.mesh_files) : can(regex("^[A-Za-z0-9._-]+\\.hcl$", name))])
    error_message = "mesh_files' names end in .hcl and hold no '/'."
  }
}

variable "workloads" {
  description = "A node's services whose user the registry does not say: service to user name."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for user in values(var.workloads) : user != "root" && user != "0"])
    error_message = "A workload never runs as root: capture by user would take the whole host."
  }
}

variable "services" {
  description = "A node's services whose proxies start at boot (kerege-envoy@NAME)."
  type        = set(string)
  default     = []
}
