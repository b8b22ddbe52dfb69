service "a" {
  source "consul" { filter = "a%{b}" } # want: KRG1017 "%{" begins a template
}
