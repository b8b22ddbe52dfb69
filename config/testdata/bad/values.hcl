defaults "*" {
  timeout      = "0s" # want: KRG1020 timeout is zero
  idle_timeout = 5    # want: KRG1012 idle_timeout is a duration or "none", not a number

  retry {
    times       = 1000000000       # want: KRG1021 times is from 0 to 10
    on          = ["conect-failure"] # want: KRG1014 is no condition to retry on
    any_method  = "true"           # want: KRG1012 any_method is true or false, not a text
    per_try     = "-1s"            # want: KRG1020 per_try is negative
    backoff     = "none"           # want: KRG1020 backoff = "none" is no duration
    backoff_max = "1000h1"         # want: KRG1020 is no duration
    budget      = "20"             # want: KRG1023 budget has no percent sign
  }

  outlier {
    consecutive_5xx = 1.5    # want: KRG1021 consecutive_5xx is a whole number
    at_most         = "150%" # want: KRG1021 at_most is from 0% to 100%, not 150%
    interval        = "1ns"  # want: KRG1020 interval is shorter than a millisecond
    eject           = "999999h" # want: KRG1020 eject is longer than 20 years
  }

  limits {
    max_connections         = 0    # want: KRG1021 max_connections is from 1
    max_pending_requests    = -5   # want: KRG1021 max_pending_requests is from 1
    max_concurrent_requests = null # want: KRG1012 max_concurrent_requests is a number, not null
  }
}

defaults "long" {
  retry { backoff_max = "1s" }
  retry { times = 1 } # want: KRG1015 retry is there twice
}

defaults "short" {
  retry {
    backoff     = "2s"
    backoff_max = "1s" # want: KRG1021 backoff_max is shorter than backoff
  }
}

defaults "batch-*" {
  retry = { times = 1 } # want: KRG1010 retry is a block here, not an argument
  timeout {} # want: KRG1010 timeout is an argument here, not a block
}
