service "a" {
  port "http" { port = 80, protocol = "http" } # want: KRG1001 invalid single-argument block definition
}
