quota "q" {
  requests = 10
  per      = "0s" # want: KRG1020 per is zero
  by       = ["header.x"]
  on_error = "alow" # want: KRG1014 "alow" is not known
}

test "t" { # want: KRG1013 test needs the block expect
  request {
    from = "web"
    to   = "api"
  }
}
