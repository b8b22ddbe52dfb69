package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-bexpr/grammar"

	"github.com/kerege/kerege/mesh"
)

// MaxFilterChars bounds a filter's text; the grammar's parser backtracks.
const MaxFilterChars = 1024

// maxFilterSteps bounds that backtracking, maxFilterDepth its recursion.
const (
	maxFilterSteps = 1_000_000
	maxFilterDepth = 5
)

// CompileFilter compiles a filter's text: bexpr over Service.ID, Service.Port,
// Service.Tags, Service.Meta.x, Node, Node.Meta.x, Datacenter, Namespace and
// Source. The error is the end of a sentence that begins with the filter. The
// result may be used by any number of goroutines, and two of the same text are
// deeply equal.
func CompileFilter(expr string) (mesh.Matcher, error) {
	if strings.TrimSpace(expr) == "" {
		return nil, errors.New("is empty")
	}
	if len(expr) > MaxFilterChars {
		return nil, fmt.Errorf("has more than %d characters", MaxFilterChars)
	}
	if nesting(expr) > maxFilterDepth {
		return nil, fmt.Errorf("nests more than %d deep", maxFilterDepth)
	}
	tree, err := grammar.Parse("", []byte(expr), grammar.MaxExpressions(maxFilterSteps))
	if err != nil {
		return nil, filterError(err)
	}
	c, err := compile(tree)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// nesting is how deep parentheses stand in each other; it is too much rather
// than too little where some are inside a quoted value.
func nesting(expr string) int {
	depth, deepest := 0, 0
	for _, c := range expr {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		deepest = max(deepest, depth)
	}
	return max(deepest, strings.Count(expr, "not not"))
}

// filterError keeps of the parser's list what helps a person.
func filterError(err error) error {
	msg, _, _ := strings.Cut(err.Error(), "\n")
	switch {
	case strings.Contains(msg, "max number of"):
		return errors.New("is too complex")
	case strings.Contains(msg, "no match found, expected: "):
		return errors.New("does not parse")
	}
	if _, rest, ok := strings.Cut(msg, "): "); ok {
		msg = strings.TrimPrefix(rest, "rule ")
	}
	return fmt.Errorf("does not parse: %s", msg)
}

// compiled is a filter's result: many services have filters of the same text,
// and bexpr's grammar is slow.
type compiled struct {
	match mesh.Matcher
	err   error
}

// compileFilter compiles each text once in a load.
func (p *parser) compileFilter(s string) (mesh.Matcher, error) {
	if c, ok := p.filters[s]; ok {
		return c.match, c.err
	}
	m, err := CompileFilter(s)
	if p.filters == nil {
		p.filters = map[string]compiled{}
	}
	p.filters[s] = compiled{m, err}
	return m, err
}

func (p *parser) filterProblem(s string) (string, string) {
	_, err := p.compileFilter(s)
	return filterFix(s, err)
}

func checkFilter(s string) (string, string) {
	_, err := CompileFilter(s)
	return filterFix(s, err)
}

func filterFix(s string, err error) (string, string) {
	var u *unknownSelector
	switch {
	case err == nil:
		return "", ""
	case errors.As(err, &u):
		return err.Error(), u.fix()
	case strings.Contains(s, " = "):
		return err.Error(), fmt.Sprintf("Compare with ==: %q.", strings.ReplaceAll(s, " = ", " == "))
	}
	return err.Error(), `For example "Service.Meta.version == v1" or "canary not in Service.Tags".`
}

// compile turns bexpr's tree into ours: bexpr's own evaluator goes by
// reflection and writes to its tree, so that it may not be shared.
func compile(e any) (*condition, error) {
	switch e := e.(type) {
	case *grammar.UnaryExpression:
		c, err := compile(e.Operand)
		if err != nil {
			return nil, err
		}
		return &condition{op: opNot, left: c}, nil
	case *grammar.BinaryExpression:
		l, err := compile(e.Left)
		if err != nil {
			return nil, err
		}
		r, err := compile(e.Right)
		if err != nil {
			return nil, err
		}
		op := opOr
		if e.Operator == grammar.BinaryOpAnd {
			op = opAnd
		}
		return &condition{op: op, left: l, right: r}, nil
	case *grammar.MatchExpression:
		return compileMatch(e)
	}
	return nil, errors.New("uses any or all, which filters of instances do not have")
}

var operators = map[grammar.MatchOperator]struct {
	op     operator
	negate bool
}{
	grammar.MatchEqual: {opEqual, false}, grammar.MatchNotEqual: {opEqual, true},
	grammar.MatchIn: {opIn, false}, grammar.MatchNotIn: {opIn, true},
	grammar.MatchIsEmpty: {opEmpty, false}, grammar.MatchIsNotEmpty: {opEmpty, true},
	grammar.MatchMatches: {opMatches, false}, grammar.MatchNotMatches: {opMatches, true},
}

func compileMatch(e *grammar.MatchExpression) (*condition, error) {
	field, key, err := selector(e.Selector.Path)
	if err != nil {
		return nil, err
	}
	known, ok := operators[e.Operator]
	if !ok {
		return nil, errors.New("uses an operator that filters of instances do not have")
	}
	c := &condition{op: known.op, field: field, key: key}
	if e.Value != nil {
		c.value = e.Value.Raw
	}
	switch {
	case c.op == opEqual && field.list():
		return nil, fmt.Errorf("compares a list: write %q", c.value+" in "+strings.Join(e.Selector.Path, "."))
	case c.op == opEqual && field == fieldPort && !isPort(c.value):
		return nil, fmt.Errorf("compares Service.Port with %q, which is no port", c.value)
	case c.op == opMatches:
		if err := c.compileRegex(); err != nil {
			return nil, err
		}
	}
	if known.negate {
		return &condition{op: opNot, left: c}, nil
	}
	return c, nil
}
