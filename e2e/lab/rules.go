package lab

import (
	"context"
	"regexp"
	"strings"
)

var counters = regexp.MustCompile(`\[\d+:\d+\]`)

// NormaliseRules is the output of iptables-save less comments, counters and
// tables without any rule or chain of their own.
func NormaliseRules(saved string) string {
	var out, table []string
	used := false
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "*"):
			table, used = []string{line}, false
		case line == "COMMIT":
			if used {
				out = append(out, table...)
			}
		default:
			builtin := strings.HasPrefix(line, ":") && (strings.Contains(line, " ACCEPT ") || strings.Contains(line, " DROP "))
			used = used || !builtin || strings.Contains(line, " DROP ")
			table = append(table, counters.ReplaceAllString(line, "[0:0]"))
		}
	}
	return strings.Join(out, "\n")
}

// Rules is the host's packet filter, both families, normalised.
func (h *Host) Rules(ctx context.Context) (string, error) {
	out, err := h.Output(ctx, Spec{Args: []string{"sh", "-c", "iptables-save && ip6tables-save"}})
	return NormaliseRules(out), err
}
