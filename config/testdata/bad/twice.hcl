defaults "*" {
  timeout = "1s"
  timeout = "2s" # want: KRG1015 an argument is there twice
}
