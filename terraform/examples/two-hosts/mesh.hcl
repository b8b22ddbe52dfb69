mesh {
  trust_domain = "prod.example"
}
