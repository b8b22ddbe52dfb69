package command

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
)

func nodeEvictCommand() Command {
	var s serverFlags
	return Command{
		Name:     "node evict",
		Synopsis: "Send a host away; it may join again with a new token",
		Args:     "NODE",
		Long: `The host's certificate is refused by the servers from this moment, its services are out
of the mesh, so that no caller is given its instances, and its proxies' streams to the
servers end. Nothing on the host is changed. It comes back with kerege join and a new token.

Whoever still shows the certificates that were signed for it is refused by every proxy,
and what is open by them is cut, as soon as the called host hears of it: at once, or when
its agent is back; through a freeze, too. Only where a server was started frozen do they
hear of it at thaw, and the answer says so. At the latest they end as kerege ca status says.
What others have open at its own instances is left to end by itself; no new call goes there.

A host is one that has joined, is connected, in the mesh, placed by a registry or named by
a token. Tokens made before for its name, or for any, do not let it back. What cannot be
written down is an error, and tried again until it is.`,
		Example: "kerege node evict vm-7",
		Flags:   s.register,
		Run: func(c *Call) error {
			return sendAway(c, &s, "evict", nil)
		},
	}
}

func nodeBanCommand() Command {
	var s serverFlags
	var reason string
	return Command{
		Name:     "node ban",
		Synopsis: "Send a host away, and let none of its name join",
		Args:     "NODE",
		Long: `Does what kerege node evict does, and refuses every token for a host of that name until
kerege node unban; also of a name that no host has yet. The reason is kept and audited.`,
		Example: `kerege node ban vm-7 -reason "stolen"`,
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.StringVar(&reason, "reason", "", "Why, for whoever asks later: a `line` of 500 bytes at most.")
		},
		Run: func(c *Call) error {
			return sendAway(c, &s, "ban", api.BanRequest{Reason: reason})
		},
	}
}

func nodeUnbanCommand() Command {
	var s serverFlags
	return Command{
		Name:     "node unban",
		Synopsis: "Let a host of a banned name join again",
		Args:     "NODE",
		Long:     "Takes a ban back. The host joins with a new token: kerege token create -node NODE.",
		Example:  "kerege node unban vm-7",
		Flags:    s.register,
		Run: func(c *Call) error {
			node, err := oneNode(c)
			if err != nil {
				return err
			}
			var none struct{}
			if err := s.post(c, "/v1/nodes/"+url.PathEscape(node)+"/unban", nil, &none); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(struct {
					Unbanned string `json:"unbanned"`
				}{node})
			}
			fmt.Fprintf(c.out, "%s is no longer banned, and not in the mesh. It comes back with kerege token create -node %[1]s, then kerege join there.\n", plain(node))
			return nil
		},
	}
}

func oneNode(c *Call) (string, error) {
	if len(c.Args) != 1 || c.Args[0] == "" {
		return "", errors.New("name one host, as kerege node list has it")
	}
	return c.Args[0], nil
}

func sendAway(c *Call, s *serverFlags, how string, body any) error {
	node, err := oneNode(c)
	if err != nil {
		return err
	}
	var away api.NodeAway
	if err := s.post(c, "/v1/nodes/"+url.PathEscape(node)+"/"+how, body, &away); err != nil {
		return err
	}
	if c.JSON {
		return c.printJSON(away)
	}
	services := "nothing of it was in the mesh"
	if len(away.Services) > 0 {
		services = "out of the mesh: " + plain(strings.Join(away.Services, ", "))
	}
	fmt.Fprintf(c.out, "%s is sent away: %s, %s.\n", plain(away.Node), services, count(away.Streams, "stream of its proxies ended", "streams of its proxies ended"))
	if away.Late {
		fmt.Fprintln(c.out, "It is frozen since before the server's start: what is said above of callers, they hear at kerege thaw.")
	}
	fmt.Fprintf(c.out, "Its certificates are refused, and what they hold open is cut, by every host whose agent is connected; by others when they are again. They end in %s at most.\n", ago(time.Duration(away.LeafTTLSeconds*float64(time.Second))))
	return nil
}
