// Command app is the small, ordinary program that the demo and the tests put
// into the mesh. It knows nothing of a mesh: plain HTTP and gRPC, plain names.
//
//	app serve -name api -version v1 -listen :8080      answers what it was asked
//	app load -url http://api.mesh:8080/ -rate 100 -for 5s   calls, counts, prints JSON
//	app hold -url http://api.mesh:8080/                one connection; a call a line of stdin
//	app banner -listen :5432                           TCP that speaks first
//	app dial -addr db.mesh:5432                        reads what a TCP server says
//	app streams                                        serves what stays open: TCP, download, gRPC
//	app follow -tcp db.mesh:5432                       reads one of those to its end
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: app serve|load|hold|banner|dial|streams|follow [flags]")
		os.Exit(2)
	}
	run := map[string]func([]string) error{
		"serve": serve, "load": load, "hold": hold, "banner": banner, "dial": dial, "streams": streams, "follow": follow,
	}[os.Args[1]]
	if run == nil {
		fmt.Fprintf(os.Stderr, "app: unknown verb %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}
