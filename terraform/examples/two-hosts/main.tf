# A server and one node. Give each user_data to your cloud's VM resource.
variable "join_token" {
  description = "kerege token create -node vm-12"
  type        = string
  sensitive   = true
  default     = ""
}

module "server" {
  source         = "../../modules/vm"
  role           = "server"
  name           = "kerege-1"
  consul_address = "127.0.0.1:8500"
  mesh_files     = { "mesh.hcl" = file("${path.module}/mesh.hcl") }
}

module "vm_12" {
  source     = "../../modules/vm"
  role       = "node"
  name       = "vm-12"
  servers    = ["kerege-1:7401"]
  join_token = var.join_token
  services   = ["web"]
}

output "server_user_data" {
  value     = module.server.user_data
  sensitive = true
}

output "node_user_data" {
  value     = module.vm_12.user_data
  sensitive = true
}
