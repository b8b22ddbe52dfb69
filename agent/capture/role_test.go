//go:build e2e

package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
)

// roleMain is this test binary as another program.
func roleMain(role string, args []string) int {
	var o Options
	var c Config
	read := func(text string, into any) {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	var err error
	switch role {
	case "dial":
		err = ProbeMain(args, os.Stdin, os.Stdout)
	case "apply": // options, config, undo: apply and end
		read(args[0], &o)
		read(args[1], &c)
		var undo time.Duration
		undo, err = time.ParseDuration(args[2])
		if err == nil {
			_, err = New(o).Apply(ctx, c, undo)
		}
	case "agent": // options, config, undo: apply and look after it
		read(args[0], &o)
		read(args[1], &c)
		m := New(o)
		if _, err = m.Apply(ctx, c, 2*time.Second); err == nil {
			fmt.Println("up")
			err = m.Run(ctx)
		}
	case "guard":
		read(args[0], &o)
		o.Log = hclog.New(&hclog.LoggerOptions{Output: os.Stderr})
		err = Guard(ctx, o, os.Stdin)
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
