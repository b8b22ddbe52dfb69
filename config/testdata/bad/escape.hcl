route "api" {
  rule "x" {
    match { path_regex = "/u/(\d+)" } # want: KRG1017 "\d" is not an escape in HCL
  }
}
