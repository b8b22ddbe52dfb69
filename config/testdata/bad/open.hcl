service "a" { # want: KRG1001 '{' is never closed
  port "http" { port = 80 }
