defaults "*" {
  timeout = 1 + 2 # want: KRG1018 there are no operators
}
