service "api" {
  port "http" { port = 80 }
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }
}

route "api" {
  rule "sum" {
    match { path_prefix = "/sum" }
    to "api.v1" { weight = 60 }
    to "api.v2" { weight = 30 }
    to "web" { weight = 5 } # want: KRG1030 the weights of rule "sum" are 60 + 30 + 5 = 95, not 100
  }

  rule "over" {
    match { path_prefix = "/over" }
    to "api.v1" { weight = 60.5 }
    to "api.v2" { weight = 50 } # want: KRG1030 60.5 + 50 = 110.5, not 100
    to "web" {}
  }

  rule "zero" {
    match { path_prefix = "/zero" }
    to "api.v1" { weight = 0 } # want: KRG1030 are 0, not 100
  }

  rule "rests" {
    match { path_prefix = "/rests" }
    to "api.v1" {}
    to "api.v2" {} # want: KRG1030 2 targets have no weight
  }

  rule "numbers" {
    match { path_prefix = "/numbers" }
    to "api.v1" { weight = -1 }  # want: KRG1021 weight is from 0 to 100, not -1
    to "api.v2" { weight = 1e9 } # want: KRG1021 weight is from 0 to 100
    to "web" { weight = 0.001 }  # want: KRG1021 has steps of 0.01
    to "w3" { wieght = 1 }       # want: KRG1010 there is no argument "wieght" in a to block
  }

  rule "unknown" {
    match { path_prefix = "/unknown" }
    to "api.v1" { weight = 50 }
    to "api.v1" { weight = 50 } # want: KRG1015 to "api.v1" is there twice
  }

  rule "matches" {
    port = "htp" # want: KRG1031 service "api" has no port "htp"
    match {}     # want: KRG1033 an empty match
    match { path = "v1" } # want: KRG1023 does not start with "/"
    match { path_regex = "(?=a)" } # want: KRG1034 is not RE2
    match { path_regex = "((a{0,100}){0,100}){0,100}" } # want: KRG1034 is not RE2
    match { path_regex = "(abcdefghijkl){0,300}" }      # want: KRG1034 compiles to more than 1000 steps
    match { path = "/a?b=c" } # want: KRG1023 has a "?" or "#"
    match { methods = ["get"] } # want: KRG1023 is not in upper case
    match { methods = ["GET", "GET"] } # want: KRG1015 methods names "GET" twice
    match { from = "web" } # want: KRG1012 from is a list of services, not a text
    match { grpc_service = "search/v1" } # want: KRG1023 is no gRPC service
    match {
      path        = "/a"
      path_prefix = "/b" # want: KRG1036 path and path_prefix exclude each other
    }
    match {
      header "x-a" {} # want: KRG1013 header says nothing to compare with
    }
    match {
      header "x-a" {
        exact  = "a"
        prefix = "b" # want: KRG1036 exact and prefix exclude each other
      }
    }
    match {
      header ":path" { exact = "a" } # want: KRG1023 is a pseudo header
    }
    match {
      header "x-kerege-never" { present = true } # want: KRG1023 is a header of the mesh's own
    }
  }

  rule "both" {
    match { path = "/both" }
    redirect { path = "/c" }
    to "web" {} # want: KRG1036 redirect and to exclude each other
  }

  rule "code" {
    match { path = "/code" }
    redirect {
      path = "/d"
      code = 305 # want: KRG1021 not 305
    }
  }

  rule "again" {
    match { path_prefix = "/again" }
    redirect { path = "/again/and/again" } # want: KRG1032 the redirect leads to itself
  }

  rule "deeper" {
    match { path_prefix = "/deeper" }
    redirect { path_prefix = "/deeper/still" } # want: KRG1032 the redirect leads to itself
  }

  rule "ping" {
    match { path = "/ping" }
    redirect { path = "/pong" } # want: KRG1032 the redirect leads to itself
  }

  rule "pong" {
    match { path = "/pong" }
    redirect { path = "/ping" } # want: KRG1032 the redirect leads to itself
  }

  rule "nowhere" {
    match { path = "/nowhere" }
    redirect {} # want: KRG1032 the redirect leads to where the caller already is
  }

  rule "rewrite" {
    match { path = "/rewrite" }
    rewrite { path_prefix = "/v2" } # want: KRG1013 a match has none
    to "web" {}
  }

  rule "groups" {
    match { path_regex = "/u/(a)" }
    rewrite { path_regex = "/users/\\2" } # want: KRG1034 group 2 is not in the match, which has 1
    to "web" {}
  }

  rule "body" {
    match { path = "/body" }
    request_headers { remove = ["x-a"] } # want: KRG1036 request_headers has no effect beside respond
    respond { status = 99 } # want: KRG1021 status is from 200 to 599
  }

  rule "headers" {
    match { path = "/headers" }
    match { path_prefix = "/a/../b" } # want: KRG1023 segment
    match { path_prefix = "//evil" }  # want: KRG1023 segment
    request_headers {
      set    = { host = "x" }         # want: KRG1023 cannot be changed as a header
      add    = { "x-a" = 1 }          # want: KRG1012 is a text, not a number
      remove = ["content-length"]     # want: KRG1023 frames the message
    }
    response_headers {} # want: KRG1033 an empty response_headers
  }

  rule "nothing" {} # want: KRG1033 an empty rule
}

route "web" {} # want: KRG1033 an empty route
