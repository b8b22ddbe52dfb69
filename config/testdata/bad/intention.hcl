intention "api" {} # want: KRG1033 an empty intention

intention "web" {
  allow {} # want: KRG1013 allow needs from

  allow {
    from        = ["*", "Web"] # want: KRG1022 has an upper-case letter
    path        = "/a"
    path_prefix = "/b" # want: KRG1036 path and path_prefix exclude each other
  }

  permit { from = ["web"] } # want: KRG1010 there is no block "permit"

  open = "shut" # want: KRG1014 "shut" is not known
}

intention "db" {
  allow {
    name = "a"
    from = ["x"]
  }

  allow {
    name = "a" # want: KRG1015 the name "a" is there twice
    from = ["y"]
  }
}
