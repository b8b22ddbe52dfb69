package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// target is one table of one family with what it should hold.
type target struct {
	family Family
	table  string
	tables Tables
	want   map[string][]string // root chain → rules
	now    listing
	enter  func(func() error) error // runs in the target's network namespace; nil: here
	open   func(*target) error
	index  int
}

// read takes the tables as they are, and what of the rules they should hold.
func (t *target) read(tables Tables, rules []Rule) error {
	lines, err := tables.Listing()
	if err != nil {
		return err
	}
	t.tables, t.now, t.want = tables, parseListing(lines), map[string][]string{}
	for _, r := range rules {
		if r.Family == t.family && tableOf(r.Chain) == t.table {
			t.want[r.Chain] = append(t.want[r.Chain], strings.Join(r.Spec, " "))
		}
	}
	return nil
}

// settled tells whether the listing is the plan, so that nothing need be written.
func (t *target) settled() bool {
	if len(t.want) == 0 && len(t.now.ours()) == 0 {
		return true // as table raw where no DNS is captured
	}
	return !slices.ContainsFunc(hooksOf(t.table), func(h hook) bool { return !t.settledHook(h) })
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
		if err := each(todo, step); err != nil {
			return true, err
		}
	}
	return len(todo) > 0, nil
}

// each takes one step in every family, at once where they can be entered apart.
func each(targets []*target, step func(*target) error) error {
	errs := make([]error, len(targets))
	var wait sync.WaitGroup
	for i, t := range targets {
		if t.enter == nil {
			if err := step(t); err != nil {
				return err
			}
			continue
		}
		wait.Go(func() { errs[i] = t.enter(func() error { return step(t) }) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// build makes the idle generation of each root chain, and reads it back.
func (t *target) build() error {
	for _, h := range hooksOf(t.table) {
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
	for _, h := range hooksOf(t.table) {
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
	for _, h := range hooksOf(t.table) {
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
	for _, h := range hooksOf(t.table) {
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
	var dead []string
	for _, h := range hooksOf(t.table) {
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
			dead = append(dead, old)
		}
	}
	if err := t.tables.Discard(dead...); err != nil {
		return fmt.Errorf("removing old generations: %w", err)
	}
	return nil
}

// remove takes all that is ours out of one table of a family, the jumps first. It is always
// safe, and does nothing where there is nothing.
func remove(t Tables) (changed bool, err error) {
	lines, err := t.Listing()
	if err != nil {
		return false, err
	}
	now := parseListing(lines)
	for _, h := range allHooks {
		for range h.jumps(now) {
			changed = true
			if err := t.Delete(h.builtin, "-j", h.root); err != nil {
				return changed, fmt.Errorf("removing the jump to %s: %w", h.root, err)
			}
		}
	}
	dead := now.ours()
	if len(dead) == 0 {
		return changed, nil
	}
	if err := t.Discard(dead...); err != nil {
		return true, fmt.Errorf("removing %s: %w", strings.Join(dead, ", "), err)
	}
	return true, nil
}
