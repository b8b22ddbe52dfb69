service "a" {
  source "consul" { service = "${env}" } # want: KRG1017 "${" begins a template
}
