mesh {
  trust_domain = upper("a") # want: KRG1018 parentheses and function calls are not part of the language
}
