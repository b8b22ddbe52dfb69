service "Api" {} # want: KRG1022 has an upper-case letter

service "a.b" {} # want: KRG1022 has a dot

service "-a" {} # want: KRG1022 starts or ends with

service "a b" {} # want: KRG1022 is not allowed

service "" {} # want: KRG1022 is empty

service "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {} # want: KRG1022 has 64 bytes

service "api" {
  source "consol" {} # want: KRG1014 source "consol" is not known

  source "nomad" {
    datacenters = [] # want: KRG1012 datacenters is an empty list
    filter = "canary = x" # want: KRG1035 does not parse
  }

  instance "legacy" { # want: KRG1013 instance needs port
    address = "10.0.0.7"
  }

  instance "named" {
    address = "web.example" # want: KRG1023 is no IP address
    port    = 80
    meta    = { a = "1", a = "2" } # want: KRG1016 the key "a" is there twice
  }

  port "http" { port = 80 }
  port "web" { port = 80 }  # want: KRG1015 port 80 is there twice
  port "http" { port = 81 } # want: KRG1015 port "http" is there twice

  subset "v1" { filter = "Service.Metta.version == v1" } # want: KRG1035 names Service.Metta.version, which no instance has
  subset "v2" { filter = "Service.Tags == v1" }          # want: KRG1035 compares a list
  subset "v3" { filter = "Service.Port == http" }        # want: KRG1035 which is no port
  subset "v4" { filter = "any Service.Tags as t { t == x }" } # want: KRG1035 filters of instances do not have
  subset "v5" { filter = "Service.ID matches `(`" }      # want: KRG1035 has an expression that is not RE2
}

service "api" {} # want: KRG1015 service "api" is there twice

service "hashed" {
  balance { policy = "maglev" } # want: KRG1013 needs a hash block
}

service "hashed2" {
  balance {
    policy = "maglev"
    hash { header = "X-User" } # want: KRG1023 has upper-case letters
  }
}

service "hashed3" {
  balance {
    hash { # want: KRG1036 a hash block needs policy
      header = "x-user"
      cookie = "c" # want: KRG1036 header and cookie exclude each other
    }
  }
}

service "pinned" {
  nodes = ["vm-1", "vm-2*", "*"]
  jobs  = ["batch/*"]
}

service "pinned2" {
  nodes = ["vm 1"] # want: KRG1022 no node's name
  jobs  = ["a*b"] # want: KRG1022 no job's name
}

service "pinned3" {
  nodes = ["vm-8"]
  jobs  = ["api"]

  instance "one" { # want: KRG1036 is not where the service's nodes = ["vm-8"], jobs = ["api"] lets it be
    address = "10.0.0.1"
    port    = 80
  }

  instance "two" {
    address = "10.0.0.2"
    port    = 80
    node    = "vm-9" # want: KRG1036 the instance "two" is not where
  }
}
