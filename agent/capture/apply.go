package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// target is one family's tables with what they should hold.
type target struct {
	family Family
	tables Tables
	want   map[string][]string // root chain → rules
	now    listing
}

func newTarget(family Family, t Tables, rules []Rule) (*target, error) {
	lines, err := t.Listing()
	if err != nil {
		return nil, err
	}
	out := &target{family: family, tables: t, want: map[string][]string{}, now: parseListing(lines)}
	for _, r := range rules {
		if r.Family == family {
			out.want[r.Chain] = append(out.want[r.Chain], strings.Join(r.Spec, " "))
		}
	}
	return out, nil
}

// settled tells whether the listing is the plan, so that nothing need be written.
func (t *target) settled() bool {
	return !slices.ContainsFunc(hooks, func(h hook) bool { return !t.settledHook(h) })
}

func (t *target) settledHook(h hook) bool {
	live := h.live(t.now)
	return live != "" && len(t.now.chains[h.root]) == 1 && h.jumps(t.now) == 1 &&
		!t.now.has(h.idle(t.now)) && slices.Equal(t.now.chains[live], t.want[h.root])
}

// apply brings every target to what it should hold. Idle generations are built
// and read back in all families before anything live changes; each live change
// is one command. It may be stopped between any two commands and called again.
func apply(targets []*target, force bool) (changed bool, err error) {
	todo := slices.Clone(targets)
	if !force {
		todo = slices.DeleteFunc(todo, (*target).settled)
	}
	steps := []func(*target) error{(*target).build, (*target).swap, (*target).hang, (*target).tidy}
	for _, step := range steps {
		for _, t := range todo {
			if err := step(t); err != nil {
				return true, err
			}
		}
	}
	return len(todo) > 0, nil
}

// build makes the idle generation of each root chain, and reads it back.
func (t *target) build() error {
	for _, h := range hooks {
		idle := h.idle(t.now)
		make := t.tables.NewChain
		if t.now.has(idle) {
			make = t.tables.ClearChain
		}
		if err := make(idle); err != nil {
			return fmt.Errorf("building %s: %w", idle, err)
		}
		for _, rule := range t.want[h.root] {
			if err := t.tables.Append(idle, strings.Fields(rule)...); err != nil {
				return fmt.Errorf("building %s, rule %q: %w", idle, rule, err)
			}
		}
	}
	lines, err := t.tables.Listing()
	if err != nil {
		return err
	}
	got := parseListing(lines)
	for _, h := range hooks {
		idle := h.idle(t.now)
		if h.live(got) != h.live(t.now) {
			return &Pending{fmt.Errorf("%s changed while %s was built", h.root, idle)}
		}
		if !slices.Equal(got.chains[idle], t.want[h.root]) {
			return fmt.Errorf("reading %s back: it holds\n%s\nand should hold\n%s", idle, strings.Join(got.chains[idle], "\n"), strings.Join(t.want[h.root], "\n"))
		}
	}
	t.now = got
	return nil
}

// swap leads each root chain to its new generation: one command each.
func (t *target) swap() error {
	for _, h := range hooks {
		jump := []string{"-j", h.idle(t.now)}
		var err error
		switch {
		case !t.now.has(h.root):
			if err = t.tables.NewChain(h.root); err == nil {
				err = t.tables.Append(h.root, jump...)
			}
		case len(t.now.chains[h.root]) == 0:
			err = t.tables.Append(h.root, jump...)
		default:
			err = t.tables.Replace(h.root, 1, jump...)
		}
		if err != nil {
			return fmt.Errorf("swapping %s: %w", h.root, err)
		}
	}
	return nil
}

// hang puts the built-in chain's jump in its place, last of all.
func (t *target) hang() error {
	for _, h := range hooks {
		if h.jumps(t.now) == 0 {
			if err := t.tables.Insert(h.builtin, 1, "-j", h.root); err != nil {
				return fmt.Errorf("installing %s: %w", h.root, err)
			}
		}
	}
	return nil
}

// tidy takes away what no longer counts: the old generation, a second jump,
// rules that someone put behind ours.
func (t *target) tidy() error {
	for _, h := range hooks {
		for n := h.jumps(t.now); n > 1; n-- {
			if err := t.tables.Delete(h.builtin, "-j", h.root); err != nil {
				return fmt.Errorf("removing a second jump to %s: %w", h.root, err)
			}
		}
		if rules := t.now.chains[h.root]; len(rules) > 1 {
			for _, extra := range rules[1:] {
				if err := t.tables.Delete(h.root, split(extra)...); err != nil {
					return fmt.Errorf("removing a foreign rule of %s: %w", h.root, err)
				}
			}
		}
		if old := h.other(h.idle(t.now)); t.now.has(old) {
			if err := errors.Join(t.tables.ClearChain(old), t.tables.DeleteChain(old)); err != nil {
				return fmt.Errorf("removing the old generation %s: %w", old, err)
			}
		}
	}
	return nil
}

// remove takes all that is ours out of one family, the jumps first. It is always
// safe, and does nothing where there is nothing.
func remove(t Tables) (changed bool, err error) {
	lines, err := t.Listing()
	if err != nil {
		return false, err
	}
	now := parseListing(lines)
	for _, h := range hooks {
		for range h.jumps(now) {
			changed = true
			if err := t.Delete(h.builtin, "-j", h.root); err != nil {
				return changed, fmt.Errorf("removing the jump to %s: %w", h.root, err)
			}
		}
	}
	// Roots before generations: a chain that something leads to cannot go.
	for _, generations := range []bool{false, true} {
		for _, chain := range now.ours() {
			isRoot := slices.ContainsFunc(hooks, func(h hook) bool { return h.root == chain })
			if isRoot == generations {
				continue
			}
			changed = true
			if len(now.chains[chain]) > 0 {
				if err := t.ClearChain(chain); err != nil {
					return changed, fmt.Errorf("emptying %s: %w", chain, err)
				}
			}
			if err := t.DeleteChain(chain); err != nil {
				return changed, fmt.Errorf("removing %s: %w", chain, err)
			}
		}
	}
	return changed, nil
}
