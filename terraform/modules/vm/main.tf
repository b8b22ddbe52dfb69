# Renders cloud-init for one VM of a kerege mesh. No provider: give `user_data` to whatever makes your VMs.
locals {
  server = var.role == "server"

  settings = local.server ? templatefile("${path.module}/templates/server.hcl.tftpl", {
    name           = var.name
    advertise      = var.advertise
    consul_address = var.consul_address
    consul_token   = nonsensitive(var.consul_token != "")
    }) : templatefile("${path.module}/templates/agent.hcl.tftpl", {
    name      = var.name
    servers   = var.servers
    join      = nonsensitive(var.join_token != "")
    workloads = var.workloads
  })

  settings_files = [{
    path        = "/etc/kerege.d/${local.server ? "server" : "agent"}.hcl"
    owner       = "root:root"
    permissions = "0644"
    content     = local.settings
  }]

  token_files = local.server || nonsensitive(var.join_token == "") ? [] : [{
    path        = "/etc/kerege.d/secrets/join-token"
    owner       = "root:root"
    permissions = "0600"
    content     = var.join_token
  }]

  # The server's user cannot read it: systemd hands it over, as kerege-server-consul.conf says.
  consul_files = !local.server || nonsensitive(var.consul_token == "") ? [] : [{
    path        = "/etc/kerege.d/secrets/consul"
    owner       = "root:root"
    permissions = "0600"
    content     = var.consul_token
    }, {
    path        = "/etc/systemd/system/kerege-server.service.d/consul.conf"
    owner       = "root:root"
    permissions = "0644"
    content     = "[Service]\nLoadCredential=consul-token:/etc/kerege.d/secrets/consul\n"
  }]

  mesh_files = local.server ? [for name, text in var.mesh_files : {
    path        = "/etc/kerege.d/mesh/${name}"
    owner       = "root:root"
    permissions = "0644"
    content     = text
  }] : []

  download = var.package_url == "" ? [] : [
    ["curl", "--fail", "--silent", "--show-error", "--location", "--output", "/var/cache/kerege.deb", var.package_url],
    ["sh", "-c", "echo '${var.package_sha256}  /var/cache/kerege.deb' | sha256sum --check --quiet"],
    ["apt-get", "install", "--yes", "/var/cache/kerege.deb"],
  ]

  start = local.server ? [["systemctl", "enable", "--now", "kerege-server.service"]] : concat(
    [["systemctl", "enable", "--now", "kerege-agent.service"]],
    [for s in sort(var.services) : ["systemctl", "enable", "--now", "kerege-envoy@${s}.service"]],
  )

  cloud_config = {
    hostname    = var.name
    write_files = concat(local.settings_files, local.token_files, local.consul_files, local.mesh_files)
    runcmd      = concat(local.download, local.start)
  }
}

check "consul_token_has_a_consul" {
  assert {
    condition     = nonsensitive(var.consul_token == "") || var.consul_address != ""
    error_message = "consul_token without consul_address: nobody would use it."
  }
}

check "package_is_pinned" {
  assert {
    condition     = var.package_url == "" || var.package_sha256 != ""
    error_message = "package_url without package_sha256: the download would not be checked."
  }
}
