package command

import (
	"fmt"
	"time"

	"github.com/kerege/kerege/api"
)

func caStatusCommand() Command {
	var s serverFlags
	return Command{
		Name:     "ca status",
		Synopsis: "How long the mesh's certificates last",
		Long:     "Shows the expiry of root and intermediate, how long leaves live, and the hash of the bundle\nthat nodes trust.",
		Example:  "kerege ca status",
		Flags:    s.register,
		Run: func(c *Call) error {
			var st api.Status
			if err := s.ask(c, "/v1/status", &st); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(st.CA)
			}
			var t table
			t.add("trust domain", st.TrustDomain)
			t.add("root", "until "+st.CA.RootExpires.Format(time.RFC3339)+", in "+ago(time.Until(st.CA.RootExpires)))
			t.add("intermediate", "until "+st.CA.IntermediateExpires.Format(time.RFC3339)+", in "+ago(time.Until(st.CA.IntermediateExpires)))
			t.add("leaves", "live "+ago(time.Duration(st.CA.LeafTTLSeconds*float64(time.Second)))+", renewed before half of it")
			t.add("bundle", st.CA.BundleHash)
			t.print(c.out)
			return nil
		},
	}
}

func caRootCommand() Command {
	var s serverFlags
	return Command{
		Name:     "ca root",
		Synopsis: "Print the trusted roots as PEM",
		Long:     "Prints the roots that every node of the mesh trusts. They are public.",
		Example:  "kerege ca root > kerege-ca.pem",
		Flags:    s.register,
		Run: func(c *Call) error {
			var pem struct {
				Bundle string `json:"bundle"`
			}
			if err := s.ask(c, "/v1/ca/bundle", &pem); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(pem)
			}
			_, err := fmt.Fprint(c.out, pem.Bundle)
			return err
		},
	}
}
