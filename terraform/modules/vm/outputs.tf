output "user_data" {
  description = "cloud-init user data (#cloud-config). Sensitive: a node's holds the join token."
  value       = "#cloud-config\n${yamlencode(local.cloud_config)}"
  sensitive   = true
}

output "settings" {
  description = "The settings file as it will be on the VM."
  value       = local.settings
}

output "units" {
  description = "The systemd units that start at boot."
  value       = [for c in local.start : element(c, length(c) - 1)]
}
