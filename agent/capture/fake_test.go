package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var errKilled = errors.New("killed")

// fake is table nat in memory. It records every command, and dies before the
// command numbered dieAt.
type fake struct {
	order    []string // chains as made
	chains   map[string][]string
	commands []string
	live     []string // what changed chains that packets meet
	dieAt    int      // 1 is the first; 0 never
	after    func(f *fake)
}

func newFake() *fake {
	f := &fake{chains: map[string][]string{}}
	for _, c := range []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"} {
		f.order, f.chains[c] = append(f.order, c), nil
	}
	return f
}

func (f *fake) do(command, chain string, change func() error) error {
	if f.dieAt > 0 && len(f.commands)+1 >= f.dieAt {
		return errKilled
	}
	f.commands = append(f.commands, command)
	if f.met(chain) && command[:2] != "-N" && command[0] == '-' {
		f.live = append(f.live, command)
	}
	err := change()
	if f.after != nil {
		f.after(f)
	}
	return err
}

// met tells whether a packet reaches the chain.
func (f *fake) met(chain string) bool {
	if chain == "OUTPUT" || chain == "PREROUTING" {
		return true
	}
	for at, rules := range f.chains {
		if slices.Contains(rules, "-j "+chain) && f.met(at) {
			return true
		}
	}
	return false
}

func (f *fake) Listing() ([]string, error) {
	var out []string
	for _, c := range f.order {
		if strings.ToUpper(c) == c && !strings.HasPrefix(c, "KEREGE") && c != "DOCKER" {
			out = append(out, "-P "+c+" ACCEPT")
		} else {
			out = append(out, "-N "+c)
		}
	}
	for _, c := range f.order {
		for _, r := range f.chains[c] {
			out = append(out, "-A "+c+" "+r)
		}
	}
	return out, nil
}

func (f *fake) need(chain string) error {
	if _, ok := f.chains[chain]; !ok {
		return fmt.Errorf("no chain %s", chain)
	}
	return nil
}

func (f *fake) NewChain(chain string) error {
	return f.do("-N "+chain, chain, func() error {
		if f.need(chain) == nil {
			return fmt.Errorf("chain %s exists", chain)
		}
		f.order, f.chains[chain] = append(f.order, chain), nil
		return nil
	})
}

func (f *fake) ClearChain(chain string) error {
	return f.do("-F "+chain, chain, func() error {
		f.chains[chain] = nil
		return f.need(chain)
	})
}

func (f *fake) Discard(chains ...string) error {
	for _, c := range chains {
		if f.met(c) {
			f.live = append(f.live, "discard "+c)
		}
	}
	return f.do("discard "+strings.Join(chains, " "), "", func() error {
		for _, c := range chains {
			if err := f.need(c); err != nil {
				return err
			}
			f.chains[c] = nil
		}
		for _, c := range chains {
			for at, rules := range f.chains {
				if slices.Contains(rules, "-j "+c) {
					return fmt.Errorf("chain %s is used by %s", c, at)
				}
			}
			delete(f.chains, c)
			f.order = slices.DeleteFunc(f.order, func(x string) bool { return x == c })
		}
		return nil
	})
}

func (f *fake) Append(chain string, spec ...string) error {
	return f.do("-A "+chain+" "+strings.Join(spec, " "), chain, func() error {
		f.chains[chain] = append(f.chains[chain], strings.Join(spec, " "))
		return f.need(chain)
	})
}

func (f *fake) Insert(chain string, pos int, spec ...string) error {
	return f.do(fmt.Sprintf("-I %s %d %s", chain, pos, strings.Join(spec, " ")), chain, func() error {
		f.chains[chain] = slices.Insert(f.chains[chain], pos-1, strings.Join(spec, " "))
		return f.need(chain)
	})
}

func (f *fake) Replace(chain string, pos int, spec ...string) error {
	return f.do(fmt.Sprintf("-R %s %d %s", chain, pos, strings.Join(spec, " ")), chain, func() error {
		if pos > len(f.chains[chain]) {
			return fmt.Errorf("no rule %d in %s", pos, chain)
		}
		f.chains[chain][pos-1] = strings.Join(spec, " ")
		return nil
	})
}

func (f *fake) Delete(chain string, spec ...string) error {
	return f.do("-D "+chain+" "+strings.Join(spec, " "), chain, func() error {
		i := slices.Index(f.chains[chain], strings.Join(spec, " "))
		if i < 0 {
			return fmt.Errorf("no such rule in %s", chain)
		}
		f.chains[chain] = slices.Delete(f.chains[chain], i, i+1)
		return nil
	})
}

func (f *fake) First(chain string, spec ...string) error {
	return f.do("first "+chain+" "+strings.Join(spec, " "), "", func() error {
		i := slices.Index(f.chains[chain], strings.Join(spec, " "))
		if i < 0 {
			return fmt.Errorf("no such rule in %s", chain)
		}
		f.chains[chain] = slices.Insert(slices.Delete(f.chains[chain], i, i+1), 0, strings.Join(spec, " "))
		return nil
	})
}

func (f *fake) text(t *testing.T) string {
	lines, err := f.Listing()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}
