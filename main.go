// Command kerege is a service mesh for Consul, Nomad and plain VMs.
package main

import (
	"os"

	"github.com/kerege/kerege/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
