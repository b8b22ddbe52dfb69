package command

import (
	"fmt"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

// planWords is what differs between the pages of apply and of a rollback.
type planWords struct {
	nothing string // why nothing changes
	then    string // what to type next; "" nothing
	names   bool   // resources by their names
}

func printPlan(c *Call, p api.Plan, names bool) {
	words := planWords{fmt.Sprintf("the files are what generation %d is", p.Generation), "Apply: kerege apply", names}
	if p.Frozen != nil {
		words.then = "Apply: kerege apply, and send it: kerege thaw"
		if !p.Apply {
			words.then = "It is applied, and waits: kerege thaw"
		}
	}
	printPlanOf(c, p, words)
}

func printPlanOf(c *Call, p api.Plan, words planWords) {
	printDiagnostics(c, p.Diagnostics)
	printDiagnostics(c, p.Warnings)
	if len(p.Diagnostics) > 0 {
		fmt.Fprintf(c.err, "%s: nothing can be applied. Generation %d goes on.\n", count(len(p.Diagnostics), "error", "errors"), p.Generation)
		return
	}
	if p.Frozen != nil {
		c.say(c.paint(color.FgYellow, frozenPlan(p.Frozen)), 2)
	}
	if !p.Changes {
		c.say(fmt.Sprintf("Nothing changes: %s.", words.nothing), 2)
		return
	}
	if len(p.Files) > 0 {
		since := p.Generation
		if p.Frozen != nil && p.Frozen.Generation > 0 {
			since = p.Frozen.Generation
		}
		c.say(fmt.Sprintf("Changed since generation %d: %s", since, strings.Join(p.Files, ", ")), 2)
		fmt.Fprintln(c.out)
	}
	printBlocks(c, p.Blocks)
	if len(p.Calls) == 0 {
		fmt.Fprintln(c.out, "No caller gains or loses a destination.")
	}
	for _, call := range p.Calls {
		sign := c.paint(color.FgGreen, "+")
		if call.Then == "refused" {
			sign = c.paint(color.FgRed, "-")
		}
		c.say(placed(c, fmt.Sprintf("%s %s → %s:  %s → %s%s", sign, call.From, call.To, call.Now, call.Then, openWords(call)), call.Where), 4)
	}
	if p.Frozen != nil && p.Frozen.Unknown {
		fmt.Fprintln(c.out)
		c.say("Which proxies are sent what shows after kerege thaw.", 2)
	} else {
		printProxyChanges(c, p.Proxies, words.names)
	}
	c.say(ends(c, p), 2)
	if words.then != "" {
		fmt.Fprintln(c.out)
		c.say(words.then, 2)
	}
}

// frozenPlan says what a plan is held against while it is frozen.
func frozenPlan(f *api.Frozen) string {
	if f.Unknown {
		return frozenSince(f) + ", and this server was started again since: it does not know what the proxies have. Held against what is applied."
	}
	return fmt.Sprintf("%s: held against what the proxies have, generation %d; %s.", frozenSince(f), f.Generation, waits(f))
}

// placed is a text with the line of HCL that it is about.
func placed(c *Call, text, where string) string {
	if where == "" {
		return text
	}
	return text + "  " + c.paint(color.Faint, where)
}

// printBlocks prints what the files say else, block by block.
func printBlocks(c *Call, blocks []api.BlockChange) {
	for _, b := range blocks {
		if b.How != "changed" {
			c.say(placed(c, plain(b.Block)+" "+b.How, b.Where), 4)
			continue
		}
		fmt.Fprintln(c.out, plain(b.Block))
		for _, e := range b.Edits {
			c.say(placed(c, "  "+plain(e.What), e.Where), 6)
		}
	}
	if len(blocks) > 0 {
		fmt.Fprintln(c.out)
	}
}

// openWords say what becomes of what a caller has open and may not open any more.
func openWords(call api.CallChange) string {
	what := "open ones"
	if call.Then != "refused" {
		what = "open ones beyond that"
	}
	switch call.Open {
	case "cut":
		return "; " + what + " are cut"
	case "finish":
		return "; " + what + " finish"
	}
	return ""
}

func printProxyChanges(c *Call, all []api.ProxyChange, names bool) {
	if len(all) == 0 {
		fmt.Fprintln(c.out, "\nNo proxy is sent anything.")
		return
	}
	fmt.Fprintf(c.out, "\n%s %s sent something:\n", count(len(all), "proxy", "proxies"), map[bool]string{true: "is", false: "are"}[len(all) == 1])
	words := inWords
	if names {
		words = func(list []string) string { return strings.Join(list, ", ") }
	}
	var t table
	for i, p := range all {
		if i == 20 {
			t.add("  …", fmt.Sprintf("and %d more (-json)", len(all)-i))
			break
		}
		what := words(p.Changed)
		if len(p.Removed) > 0 {
			what = strings.TrimPrefix(what+"; not any more: "+words(p.Removed), "; ")
		}
		t.add("  "+p.Proxy, what)
		for _, d := range p.Drains {
			t.add("", c.paint(color.FgRed, "drains "+d))
		}
	}
	t.fit(c.terminal)
}

// ends says what of what is open ends: with listeners that drain, and with rights
// that are lost.
func ends(c *Call, p api.Plan) string {
	drains := 0
	for _, proxy := range p.Proxies {
		drains += len(proxy.Drains)
	}
	text := count(drains, "listener drains", "listeners drain")
	if drains > 0 {
		text += ", and connections on " + map[bool]string{true: "it", false: "them"}[drains == 1] + " are closed within the drain time"
	}
	cut := cutWords(p.Cut)
	if cut == "" {
		cut = "no open connection is cut for a lost right"
	}
	text += "; " + cut + "."
	if drains > 0 || len(p.Cut) > 0 {
		text = c.paint(color.FgRed, text)
	}
	return text
}

// cutWords say whose open connections are cut; "" nobody's.
func cutWords(all []api.Cut) string {
	if len(all) == 0 {
		return ""
	}
	callers := map[string]bool{}
	var pairs []string
	for i, cut := range all {
		callers[cut.From] = true
		if i < 5 {
			pairs = append(pairs, cut.From+" → "+cut.To)
		}
	}
	text := strings.Join(pairs, ", ")
	if more := len(all) - len(pairs); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("open connections of %s are cut (%s)", count(len(callers), "caller", "callers"), text)
}
