package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Backend is one of the two packet filters behind the iptables commands. A host
// uses one; rules in the other are met by packets too, in an order nobody chose.
type Backend struct {
	Name    string `json:"name"` // nft | legacy
	V4      string `json:"v4"`   // the commands
	V6      string `json:"v6"`   // "" where there is no ip6tables
	Foreign int    `json:"foreign"`
	Warning string `json:"warning,omitempty"`
}

// Commands names the iptables commands where PATH does not; empty fields are
// looked up: iptables-nft, iptables-legacy, and what iptables itself is.
type Commands struct{ IPTables, IP6Tables string }

var errNoIPTables = errors.New("there is no iptables command: apt-get install iptables")

// detect chooses the backend of the calling thread's namespace: the one that
// holds our chains, else the one that holds rules, else the one that plain
// iptables means.
func detect(ctx context.Context, c Commands, known string) (Backend, error) {
	if c.IPTables != "" {
		return describe(ctx, c.IPTables, c.IP6Tables)
	}
	byDefault, err := describe(ctx, "iptables", "ip6tables")
	nft, legacy := variant("nft"), variant("legacy")
	switch {
	case err != nil && nft.V4 == "" && legacy.V4 == "":
		return Backend{}, errNoIPTables
	case err == nil && byDefault.Name == "nft" && nft.V4 == "":
		nft = byDefault
	case err == nil && byDefault.Name == "legacy" && legacy.V4 == "":
		legacy = byDefault
	}
	nftOurs, nftRules := countNFT(ctx, nft)
	legacyOurs, legacyRules := countLegacy(ctx, legacy)
	nft.Foreign, legacy.Foreign = nftRules, legacyRules
	pick := func(b, other Backend) (Backend, error) {
		if other.Foreign > 0 {
			b.Warning = fmt.Sprintf("%d rules are in iptables-%s, and packets meet both: move them to iptables-%s", other.Foreign, other.Name, b.Name)
		}
		return b, nil
	}
	legacyFirst := byDefault.Name == "legacy"
	if (nftRules > 0) != (legacyRules > 0) {
		legacyFirst = legacyRules > 0
	}
	if known != "" && nftOurs == legacyOurs {
		legacyFirst = known == "legacy"
	}
	if nftOurs != legacyOurs {
		legacyFirst = legacyOurs
	}
	if (legacyFirst && legacy.V4 != "") || nft.V4 == "" {
		return pick(legacy, nft)
	}
	return pick(nft, legacy)
}

func variant(name string) Backend {
	b := Backend{Name: name}
	b.V4, _ = exec.LookPath("iptables-" + name)
	b.V6, _ = exec.LookPath("ip6tables-" + name)
	return b
}

// describe asks a command which backend it writes.
func describe(ctx context.Context, v4, v6 string) (Backend, error) {
	path, err := exec.LookPath(v4)
	if err != nil {
		return Backend{}, fmt.Errorf("finding iptables: %w", err)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return Backend{}, fmt.Errorf("asking %s for its version: %w", path, err)
	}
	b := Backend{Name: "legacy", V4: path}
	if strings.Contains(string(out), "nf_tables") {
		b.Name = "nft"
	}
	b.V6, _ = exec.LookPath(v6)
	return b, nil
}

// countNFT counts rules of all tables; listing them makes nothing.
func countNFT(ctx context.Context, b Backend) (ours bool, rules int) {
	for _, command := range []string{b.V4, b.V6} {
		if command == "" {
			continue
		}
		out, err := exec.CommandContext(ctx, command+"-save").Output()
		if err != nil {
			continue
		}
		o, n := countRules(string(out))
		ours, rules = ours || o, rules+n
	}
	return ours, rules
}

// countLegacy asks only for tables that exist: to list one would make it.
func countLegacy(ctx context.Context, b Backend) (ours bool, rules int) {
	for command, names := range map[string]string{b.V4: "ip_tables_names", b.V6: "ip6_tables_names"} {
		tables, err := os.ReadFile("/proc/thread-self/net/" + names)
		if command == "" || err != nil {
			continue
		}
		for _, table := range strings.Fields(string(tables)) {
			out, err := exec.CommandContext(ctx, command, "-t", table, "-S", "--wait", "5").Output()
			if err != nil {
				continue
			}
			o, n := countRules(string(out))
			ours, rules = ours || o, rules+n
		}
	}
	return ours, rules
}

// countRules counts rules that are not ours, in the words of iptables -S or of
// iptables-save.
func countRules(text string) (ours bool, foreign int) {
	l := listing{chains: map[string][]string{}}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if chain, ok := strings.CutPrefix(line, ":"); ok {
			name, _, _ := strings.Cut(chain, " ")
			line = "-N " + name
		}
		lines = append(lines, line)
	}
	l = parseListing(lines)
	return len(l.ours()) > 0, l.foreign()
}
