mesh {
  trust_domain      = "Prod.example" # want: KRG1022 has an upper-case letter
  mtsl              = "strict"       # want: KRG1010 there is no argument "mtsl" in a mesh block
  mtls              = "strickt"      # want: KRG1014 "strickt" is not known
  outbound          = registered     # want: KRG1018 registered is no value
  default_intention = true           # want: KRG1012 not true or false
}

mesh { # want: KRG1015 mesh is there twice
  trust_domain = "prod.example"
}

mesh "x" {} # want: KRG1011 mesh takes no label

defaults { # want: KRG1011 defaults needs a label
  timeout = "1s"
}

defaults "a" "b" {} # want: KRG1011 defaults takes one label, not 2

defaults "*-batch" {} # want: KRG1022 "*-batch" is not allowed

defaults "Batch-*" {} # want: KRG1022 is no pattern

gatway "x" {} # want: KRG1010 there is no block "gatway" in a mesh file

retry_join = ["10.0.0.1:7401"] # want: KRG1019 retry_join does not belong into a mesh file

workload "web" {} # want: KRG1019 workload does not belong into a mesh file
