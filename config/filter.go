package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-bexpr/grammar"

	"github.com/kerege/kerege/mesh"
)

// MaxFilterChars bounds a filter's text; the grammar's parser backtracks.
const MaxFilterChars = 1024

// maxFilterSteps bounds that backtracking.
const maxFilterSteps = 100_000

// predicate is a compiled filter. It keeps no state: any number of goroutines
// may call it (bexpr's own evaluator writes to its tree).
type predicate func(*mesh.Instance) bool

// Match says whether the instance belongs.
func (p predicate) Match(i *mesh.Instance) bool { return p(i) }

// CompileFilter compiles a filter's text: bexpr over Service.ID, Service.Port,
// Service.Tags, Service.Meta.x, Node, Node.Meta.x, Datacenter, Namespace and
// Source. The error is one sentence.
func CompileFilter(expr string) (mesh.Matcher, error) {
	if strings.TrimSpace(expr) == "" {
		return nil, errors.New("is empty")
	}
	if len(expr) > MaxFilterChars {
		return nil, fmt.Errorf("has more than %d characters", MaxFilterChars)
	}
	if strings.Count(expr, "(")+strings.Count(expr, "not ") > 32 {
		return nil, errors.New("nests more than 32 deep")
	}
	tree, err := grammar.Parse("", []byte(expr), grammar.MaxExpressions(maxFilterSteps))
	if err != nil {
		return nil, filterError(err)
	}
	p, err := compile(tree)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// filterError keeps of the parser's list what helps a person.
func filterError(err error) error {
	msg := strings.SplitN(err.Error(), "\n", 2)[0]
	if _, rest, ok := strings.Cut(msg, "no match found, expected: "); ok && len(rest) > 0 {
		return errors.New("does not parse: a comparison such as Service.Meta.version == v1, or value in Service.Tags, is expected")
	}
	if _, rest, ok := strings.Cut(msg, "): "); ok {
		msg = strings.TrimPrefix(rest, "rule ")
	}
	return fmt.Errorf("does not parse: %s", msg)
}

func checkFilter(s string) (string, string) {
	if _, err := CompileFilter(s); err != nil {
		var u *unknownSelector
		if errors.As(err, &u) {
			return err.Error(), u.fix()
		}
		if strings.Contains(s, " = ") {
			return err.Error(), fmt.Sprintf("Compare with ==: %q.", strings.ReplaceAll(s, " = ", " == "))
		}
		return err.Error(), `For example "Service.Meta.version == v1" or "canary not in Service.Tags".`
	}
	return "", ""
}

func compile(e any) (predicate, error) {
	switch e := e.(type) {
	case *grammar.UnaryExpression:
		p, err := compile(e.Operand)
		if err != nil {
			return nil, err
		}
		return func(i *mesh.Instance) bool { return !p(i) }, nil
	case *grammar.BinaryExpression:
		l, err := compile(e.Left)
		if err != nil {
			return nil, err
		}
		r, err := compile(e.Right)
		if err != nil {
			return nil, err
		}
		if e.Operator == grammar.BinaryOpAnd {
			return func(i *mesh.Instance) bool { return l(i) && r(i) }, nil
		}
		return func(i *mesh.Instance) bool { return l(i) || r(i) }, nil
	case *grammar.MatchExpression:
		return compileMatch(e)
	}
	return nil, errors.New("uses any or all, which filters of instances do not have")
}

// selected is what a selector finds: one value, or a list, or nothing.
type selected struct {
	values []string
	list   bool
	found  bool
}

func compileMatch(e *grammar.MatchExpression) (predicate, error) {
	get, list, err := selector(e.Selector.Path)
	if err != nil {
		return nil, err
	}
	value, isPort := "", len(e.Selector.Path) == 2 && e.Selector.Path[1] == "Port"
	if e.Value != nil {
		value = e.Value.Raw
	}
	if isPort {
		if _, err := strconv.ParseUint(value, 10, 16); err != nil && e.Value != nil {
			return nil, fmt.Errorf("compares Service.Port with %q, which is no port", value)
		}
	}
	var test func(selected) bool
	switch e.Operator {
	case grammar.MatchEqual, grammar.MatchNotEqual:
		if list {
			return nil, fmt.Errorf("compares a list: write %q", value+" in Service.Tags")
		}
		test = func(s selected) bool { return s.found && s.values[0] == value }
	case grammar.MatchIn, grammar.MatchNotIn:
		test = func(s selected) bool { return s.found && contains(s, value) }
	case grammar.MatchIsEmpty, grammar.MatchIsNotEmpty:
		test = func(s selected) bool { return !s.found || len(s.values) == 0 || !s.list && s.values[0] == "" }
	case grammar.MatchMatches, grammar.MatchNotMatches:
		if p, _ := checkRegex(value); p != "" {
			return nil, fmt.Errorf("has an expression that %s", p)
		}
		re := regexp.MustCompile(value)
		test = func(s selected) bool { return s.found && slices.ContainsFunc(s.values, re.MatchString) }
	default:
		return nil, errors.New("uses an operator that filters of instances do not have")
	}
	switch e.Operator {
	case grammar.MatchNotEqual, grammar.MatchNotIn, grammar.MatchIsNotEmpty, grammar.MatchNotMatches:
		return func(i *mesh.Instance) bool { return !test(get(i)) }, nil
	}
	return func(i *mesh.Instance) bool { return test(get(i)) }, nil
}

func contains(s selected, value string) bool {
	if s.list {
		return slices.Contains(s.values, value)
	}
	return strings.Contains(s.values[0], value)
}

var selectorNames = []string{"Service.ID", "Service.Port", "Service.Tags", "Service.Meta", "Node", "Node.Meta", "Datacenter", "Namespace", "Source"}

type unknownSelector struct{ name string }

// fix keeps the key of a misspelt Service.Meta.key.
func (u *unknownSelector) fix() string {
	parts := strings.SplitN(u.name, ".", 3)
	head := strings.Join(parts[:min(2, len(parts))], ".")
	near := nearest(head, selectorNames)
	if len(parts) == 3 && (near == "Service.Meta" || near == "Node.Meta") {
		return "Did you mean " + quoted(near+"."+parts[2]) + "?"
	}
	return didYouMean(u.name, selectorNames)
}

func (u *unknownSelector) Error() string {
	return fmt.Sprintf("names %s, which no instance has", u.name)
}

// selector returns how a path reads an instance, and whether it gives a list.
func selector(path []string) (get func(*mesh.Instance) selected, list bool, err error) {
	one := func(f func(*mesh.Instance) string) func(*mesh.Instance) selected {
		return func(i *mesh.Instance) selected { return selected{values: []string{f(i)}, found: true} }
	}
	key := func(f func(*mesh.Instance) map[string]string, k string) func(*mesh.Instance) selected {
		return func(i *mesh.Instance) selected {
			v, ok := f(i)[k]
			return selected{values: []string{v}, found: ok}
		}
	}
	name := strings.Join(path, ".")
	switch name {
	case "Service.ID":
		return one(func(i *mesh.Instance) string { return i.ID }), false, nil
	case "Service.Port":
		return one(func(i *mesh.Instance) string { return strconv.Itoa(int(i.Addr.Port())) }), false, nil
	case "Service.Tags":
		return func(i *mesh.Instance) selected { return selected{values: i.Tags, list: true, found: true} }, true, nil
	case "Node":
		return one(func(i *mesh.Instance) string { return i.Node }), false, nil
	case "Datacenter":
		return one(func(i *mesh.Instance) string { return i.Datacenter }), false, nil
	case "Namespace":
		return one(func(i *mesh.Instance) string { return i.Namespace }), false, nil
	case "Source":
		return one(func(i *mesh.Instance) string { return i.Source }), false, nil
	case "Service.Meta":
		return keys(func(i *mesh.Instance) map[string]string { return i.Meta }), true, nil
	case "Node.Meta":
		return keys(func(i *mesh.Instance) map[string]string { return i.NodeMeta }), true, nil
	}
	// A key of metadata may hold dots of its own.
	if k, ok := strings.CutPrefix(name, "Service.Meta."); ok {
		return key(func(i *mesh.Instance) map[string]string { return i.Meta }, k), false, nil
	}
	if k, ok := strings.CutPrefix(name, "Node.Meta."); ok {
		return key(func(i *mesh.Instance) map[string]string { return i.NodeMeta }, k), false, nil
	}
	return nil, false, &unknownSelector{name}
}

// keys reads the names of metadata, so that "version in Service.Meta" works.
func keys(f func(*mesh.Instance) map[string]string) func(*mesh.Instance) selected {
	return func(i *mesh.Instance) selected {
		m := f(i)
		out := make([]string, 0, len(m))
		for k := range m {
			out = append(out, k)
		}
		slices.Sort(out)
		return selected{values: out, list: true, found: true}
	}
}
