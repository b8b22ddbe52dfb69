service "a" {
  port "http" { port = 80, protocol = "http" } # want: KRG1001 a block on one line holds one argument at most
}
