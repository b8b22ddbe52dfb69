package command

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is what `kerege version -json` prints.
type Version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Built    string `json:"built,omitempty"`
	Go       string `json:"go"`
}

func versionCommand() Command {
	return Command{
		Name:     "version",
		Synopsis: "Print the version",
		Long:     "Prints kerege's version, and the revision and date of its source where the build knew them.",
		Example:  "kerege version",
		Run: func(c *Call) error {
			v := Version{Version: version, Go: runtime.Version()}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					switch s.Key {
					case "vcs.revision":
						v.Revision = s.Value
					case "vcs.time":
						v.Built = s.Value
					}
				}
			}
			if c.JSON {
				return c.printJSON(v)
			}
			fmt.Fprintf(c.out, "kerege %s\n", v.Version)
			if v.Revision != "" {
				fmt.Fprintf(c.out, "revision %s, %s\n", v.Revision, v.Built)
			}
			return nil
		},
	}
}
