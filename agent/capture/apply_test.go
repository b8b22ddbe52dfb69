package capture

import (
	"errors"
	"strings"
	"testing"
)

func bring(f *fake, c Config) (bool, error) { return bringTable(f, nat, c) }

func bringTable(f *fake, table string, c Config) (bool, error) {
	t := &target{family: V4, table: table}
	if err := t.read(f, Rules(c)); err != nil {
		return false, err
	}
	return apply([]*target{t}, false)
}

func must(t *testing.T, f *fake, c Config) {
	t.Helper()
	if _, err := bring(f, c); err != nil {
		t.Fatal(err)
	}
}

// other is a config that differs from sample in both directions.
func other() Config {
	c := sample()
	c.Workloads = append(c.Workloads, Workload{Name: "api", UIDs: []uint32{2002}, OutboundPort: 15011, InboundPort: 15016, Ports: []uint16{9090}})
	return c
}

func TestApplyTwiceWritesOnce(t *testing.T) {
	f := newFake()
	must(t, f, sample())
	n, text := len(f.commands), f.text(t)
	must(t, f, sample())
	if len(f.commands) != n || f.text(t) != text {
		t.Errorf("the second apply ran %v", f.commands[n:])
	}
}

// Where no DNS is captured, table raw is not touched; turned off, it is emptied by a swap.
func TestRawIsWrittenForDNSOnly(t *testing.T) {
	quiet := sample()
	quiet.DNS = false
	f := newFake()
	if changed, err := bringTable(f, raw, quiet); err != nil || changed || len(f.commands) > 0 {
		t.Errorf("changed %v, %v: %q", changed, err, f.commands)
	}
	for _, c := range []Config{sample(), quiet} {
		if changed, err := bringTable(f, raw, c); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if changed, err := bringTable(f, raw, c); err != nil || changed {
			t.Errorf("not settled: %v, %v", changed, err)
		}
		if got := held(f, rawHooks[0]); got != planned(c, chainDNS) {
			t.Errorf("holds\n%s\nnot\n%s", got, planned(c, chainDNS))
		}
	}
}

func TestFirstInstallHangsTheJumpLast(t *testing.T) {
	f := newFake()
	must(t, f, sample())
	if len(f.live) != 2 || f.live[0] != "-I PREROUTING 1 -j KEREGE_IN" || f.live[1] != "-I OUTPUT 1 -j KEREGE_OUT" {
		t.Errorf("touched what packets meet: %q", f.live)
	}
}

func TestOnlyReplaceTouchesALiveChain(t *testing.T) {
	f := newFake()
	must(t, f, sample())
	f.live = nil
	must(t, f, other())
	want := []string{"-R KEREGE_IN 1 -j KEREGE_IN_B", "-R KEREGE_OUT 1 -j KEREGE_OUT_B"}
	if strings.Join(f.live, "\n") != strings.Join(want, "\n") {
		t.Errorf("touched what packets meet: %q", f.live)
	}
	if f.chains["KEREGE_IN_A"] != nil || f.chains["KEREGE_OUT_A"] != nil || strings.Contains(f.text(t), "_A") {
		t.Errorf("the old generation is still there:\n%s", f.text(t))
	}
}

// held is what packets meet: the rules of the live generations.
func held(f *fake, h hook) string {
	l := parseListing(must2(f.Listing()))
	if h.jumps(l) == 0 || len(l.chains[h.root]) == 0 {
		return "nothing"
	}
	return strings.Join(l.chains[h.live(l)], "\n")
}

func must2(lines []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return lines
}

func planned(c Config, root string) string {
	var out []string
	for _, r := range Rules(c) {
		if r.Family == V4 && r.Chain == root {
			out = append(out, strings.Join(r.Spec, " "))
		}
	}
	return strings.Join(out, "\n")
}

// A kill before any command leaves old or new live; the next start converges.
func TestKilledAnywhere(t *testing.T) {
	for name, first := range map[string]*Config{"from nothing": nil, "from another generation": ptr(sample()),
		"raw from nothing": nil, "raw from another generation": ptr(sample())} {
		t.Run(name, func(t *testing.T) {
			points, table, least := 0, nat, 20
			if strings.HasPrefix(name, raw) {
				table, least = raw, 6
			}
			bring := func(f *fake, c Config) (bool, error) { return bringTable(f, table, c) }
			must := func(t *testing.T, f *fake, c Config) {
				t.Helper()
				if _, err := bring(f, c); err != nil {
					t.Fatal(err)
				}
			}
			for kill := 1; ; kill++ {
				f := newFake()
				f.chains["OUTPUT"] = []string{"-d 10.1.1.1/32 -j ACCEPT"}
				before := f.text(t)
				if first != nil {
					must(t, f, *first)
				}
				f.dieAt = len(f.commands) + kill
				_, err := bring(f, other())
				for _, h := range hooksOf(table) {
					old := "nothing"
					if first != nil {
						old = planned(*first, h.root)
					}
					if got := held(f, h); got != old && got != planned(other(), h.root) {
						t.Fatalf("killed at %d: %s holds neither old nor new:\n%s", kill, h.root, got)
					}
				}
				f.dieAt = 0
				must(t, f, other())
				converged := len(parseListing(must2(f.Listing())).ours()) == 2*len(hooksOf(table))
				for _, h := range hooksOf(table) {
					converged = converged && held(f, h) == planned(other(), h.root)
				}
				if !converged {
					t.Fatalf("killed at %d: the next start does not converge:\n%s", kill, f.text(t))
				}
				if _, err := remove(f); err != nil || f.text(t) != before {
					t.Fatalf("killed at %d: removal: %v\n%s", kill, err, f.text(t))
				}
				if err == nil {
					break
				}
				if !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				points++
			}
			if points < least {
				t.Errorf("only %d kill points", points)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestRemoveKilledAnywhere(t *testing.T) {
	for kill := 1; ; kill++ {
		f := newFake()
		before := f.text(t)
		must(t, f, sample())
		f.dieAt = len(f.commands) + kill
		_, err := remove(f)
		for _, h := range natHooks {
			if got := held(f, h); got != "nothing" && got != planned(sample(), h.root) {
				t.Fatalf("killed at %d: %s holds a mix:\n%s", kill, h.root, got)
			}
		}
		f.dieAt = 0
		if _, again := remove(f); again != nil || f.text(t) != before {
			t.Fatalf("killed at %d: the next removal: %v\n%s", kill, again, f.text(t))
		}
		if err == nil {
			return
		}
	}
}

func TestWhatOthersDidIsRepaired(t *testing.T) {
	for name, damage := range map[string]func(f *fake){
		"flushed all": func(f *fake) {
			for c := range f.chains {
				f.chains[c] = nil
			}
		},
		"flushed and deleted": func(f *fake) {
			clean := newFake()
			f.order, f.chains = clean.order, clean.chains
		},
		"jump gone":        func(f *fake) { f.chains["OUTPUT"] = nil },
		"two jumps":        func(f *fake) { f.chains["OUTPUT"] = []string{"-j KEREGE_OUT", "-j KEREGE_OUT"} },
		"root emptied":     func(f *fake) { f.chains["KEREGE_OUT"] = nil },
		"rule behind ours": func(f *fake) { f.chains["KEREGE_OUT"] = append(f.chains["KEREGE_OUT"], "-j ACCEPT") },
		"rule before ours": func(f *fake) {
			f.chains["KEREGE_OUT"] = append([]string{"-j ACCEPT"}, f.chains["KEREGE_OUT"]...)
		},
		"generation edited": func(f *fake) { f.chains["KEREGE_OUT_A"] = f.chains["KEREGE_OUT_A"][1:] },
		"stale generation": func(f *fake) {
			f.order, f.chains["KEREGE_OUT_B"] = append(f.order, "KEREGE_OUT_B"), []string{"-j ACCEPT"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			must(t, f, sample())
			damage(f)
			changed, err := bring(f, sample())
			if err != nil || !changed {
				t.Fatalf("changed %v: %v", changed, err)
			}
			if held(f, natHooks[1]) != planned(sample(), chainOut) {
				t.Errorf("not repaired:\n%s", f.text(t))
			}
			if changed, err := bring(f, sample()); err != nil || changed {
				t.Errorf("not settled: %v, %v", changed, err)
			}
		})
	}
}

// A tool that writes otherwise than it was told is found before the swap.
func TestReadBackComesBeforeTheSwap(t *testing.T) {
	f := newFake()
	f.after = func(f *fake) {
		if rules := f.chains["KEREGE_OUT_A"]; len(rules) > 2 {
			f.chains["KEREGE_OUT_A"] = rules[:2]
		}
	}
	if _, err := bring(f, sample()); err == nil || !strings.Contains(err.Error(), "reading KEREGE_OUT_A back") {
		t.Fatalf("got %v", err)
	}
	if len(f.live) > 0 {
		t.Errorf("touched what packets meet: %q", f.live)
	}
}

func FuzzListing(f *testing.F) {
	f.Add("-P OUTPUT ACCEPT\n-N KEREGE_OUT\n-A OUTPUT -m comment --comment \"a b\" -j KEREGE_OUT")
	f.Add("-A")
	f.Add("-A X -c 1")
	f.Fuzz(func(t *testing.T, text string) {
		l := parseListing(strings.Split(text, "\n"))
		l.ours()
		l.foreign()
		for _, h := range natHooks {
			h.live(l)
			h.jumps(l)
		}
	})
}
