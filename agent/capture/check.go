package capture

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Check finds what would make a capture dangerous or senseless, from the config alone.
func (c Config) Check() []Stop {
	var out []Stop
	type holder struct{ netns, port string }
	ports, users := map[holder]string{}, map[string]string{}
	claim := func(w Workload, port uint16, what string) {
		at := holder{w.Netns, strconv.Itoa(int(port))}
		if other, taken := ports[at]; taken && port != 0 {
			out = append(out, Stop{w.Name, fmt.Sprintf("%s %d belongs to workload %s too", what, port, other), "give each its own"})
		}
		ports[at] = w.Name
	}
	for _, w := range c.Workloads {
		out = append(out, w.checkWho()...)
		for _, uid := range w.UIDs {
			if other, taken := users[strconv.Itoa(int(uid))]; taken && other != w.Name {
				out = append(out, Stop{w.Name, fmt.Sprintf("user %d is workload %s too, and their calls cannot be told apart", uid, other), "give each a user or a slice of its own"})
			}
			users[strconv.Itoa(int(uid))] = w.Name
			if slices.Contains(c.EnvoyUIDs, uid) || slices.Contains(c.AgentUIDs, uid) {
				out = append(out, Stop{w.Name, fmt.Sprintf("user %d also runs Envoy or the agent, which must not be captured", uid), "run the application as another user"})
			}
		}
		if w.OutboundPort == 0 && w.InboundPort == 0 {
			out = append(out, Stop{w.Name, "it has no port of an Envoy to go to", "give it an outbound and an inbound port"})
		}
		claim(w, w.OutboundPort, "capture port")
		claim(w, w.InboundPort, "capture port")
		for _, p := range w.Ports {
			claim(w, p, "port")
		}
	}
	return out
}

func (w Workload) checkWho() []Stop {
	n := 0
	for _, is := range []bool{len(w.UIDs) > 0, w.Slice != "", w.Netns != ""} {
		if is {
			n++
		}
	}
	switch {
	case n == 0:
		return []Stop{{w.Name, "nothing says which program it is", "name its user, slice or network namespace"}}
	case n > 1:
		return []Stop{{w.Name, "it is named twice", "name one of user, slice and network namespace"}}
	case slices.Contains(w.UIDs, 0):
		return []Stop{{w.Name, "it runs as root (uid 0): capture by user would take all of the host's own traffic",
			"run it as a user of its own (User= in its unit), or put its unit in a slice of its own (Slice=) and name that slice"}}
	case w.Slice != "" && (!filepath.IsLocal(w.Slice) || !strings.HasSuffix(w.Slice, ".slice")):
		return []Stop{{w.Name, fmt.Sprintf("%q is no slice", w.Slice), "name a systemd slice, as web.slice: a unit's own cgroup goes with every restart, and the rule with it"}}
	}
	return nil
}

// LookupUser finds a user by name or number.
func LookupUser(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if n, bad := strconv.ParseUint(name, 10, 32); bad == nil {
			return uint32(n), nil
		}
		return 0, &Stop{What: fmt.Sprintf("user %q does not exist on this host", name), Mend: "make it (useradd --system " + name + "), or name the user that the application runs as"}
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("reading the uid of %s: %w", name, err)
	}
	return uint32(n), nil
}

// SlicePath is the cgroup v2 path of a systemd slice: a-b.slice lies in a.slice.
func SlicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "" || name == "-" || strings.Contains(slice, "/") {
		return slice
	}
	var parts []string
	for i, r := range name + "-" {
		if r == '-' && i > 0 {
			parts = append(parts, name[:i]+".slice")
		}
	}
	return filepath.Join(parts...)
}

// cgroupMount is where cgroup v2 is: on a hybrid host it is beside the old ones.
func cgroupMount() string {
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	return "/sys/fs/cgroup"
}
