run "node" {
  command = apply

  variables {
    role       = "node"
    name       = "vm-12"
    servers    = ["10.0.0.5:7401"]
    join_token = "kj_secret-token.abc"
    workloads  = { web = "www-data" }
    services   = ["web"]
  }

  assert {
    condition     = strcontains(output.settings, "retry_join = [\"10.0.0.5:7401\"]") && strcontains(output.settings, "user = \"www-data\"")
    error_message = "agent.hcl is not as expected"
  }

  assert {
    condition     = !strcontains(output.settings, "kj_secret")
    error_message = "the token is in the settings, not in its own file"
  }

  assert {
    condition     = output.units == ["kerege-agent.service", "kerege-envoy@web.service"]
    error_message = "units are not as expected"
  }

  assert {
    condition     = [for f in yamldecode(trimprefix(nonsensitive(output.user_data), "#cloud-config\n")).write_files : f.permissions if f.path == "/etc/kerege.d/secrets/join-token"] == ["0600"]
    error_message = "the token's file is not 0600"
  }
}

run "server" {
  command = apply

  variables {
    role           = "server"
    name           = "kerege-1"
    consul_address = "127.0.0.1:8500"
    mesh_files     = { "mesh.hcl" = "mesh {\n  trust_domain = \"prod.example\"\n}\n" }
  }

  assert {
    condition     = output.units == ["kerege-server.service"] && strcontains(output.settings, "address = \"127.0.0.1:8500\"") && !strcontains(output.settings, "token_file")
    error_message = "server is not as expected"
  }

  assert {
    condition     = contains([for f in yamldecode(trimprefix(nonsensitive(output.user_data), "#cloud-config\n")).write_files : f.path], "/etc/kerege.d/mesh/mesh.hcl")
    error_message = "the mesh file is missing"
  }
}

run "consul_token" {
  command = apply

  variables {
    role           = "server"
    name           = "kerege-1"
    consul_address = "127.0.0.1:8500"
    consul_token   = "6d27a8ff-secret"
  }

  assert {
    condition     = strcontains(output.settings, "token_file = \"/run/credentials/kerege-server.service/consul-token\"") && !strcontains(output.settings, "6d27a8ff")
    error_message = "the token is not handed over by systemd"
  }

  assert {
    condition     = [for f in yamldecode(trimprefix(nonsensitive(output.user_data), "#cloud-config\n")).write_files : f.permissions if f.path == "/etc/kerege.d/secrets/consul"] == ["0600"]
    error_message = "the token's file is not 0600"
  }
}

run "consul_token_without_consul" {
  command = plan

  variables {
    role         = "server"
    name         = "kerege-1"
    consul_token = "6d27a8ff-secret"
  }

  expect_failures = [check.consul_token_has_a_consul]
}

run "role_is_checked" {
  command = plan

  variables {
    role = "gateway"
    name = "x"
  }

  expect_failures = [var.role]
}

run "root_is_refused" {
  command = plan

  variables {
    role      = "node"
    name      = "x"
    workloads = { web = "root" }
  }

  expect_failures = [var.workloads]
}

run "name_is_checked" {
  command = plan

  variables {
    role = "node"
    name = "../etc"
  }

  expect_failures = [var.name]
}

run "unpinned_package" {
  command = plan

  variables {
    role        = "node"
    name        = "x"
    package_url = "https://packages.example/kerege.deb"
  }

  expect_failures = [check.package_is_pinned]
}
