package config

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/kerege/kerege/mesh"
)

// value is an argument's value, checked against its type.
type value struct {
	text    string
	flag    bool
	number  float64 // of int, number, percent (in percent) and size (in bytes)
	time    time.Duration
	items   []item
	members []member
	rng     hcl.Range
	nameRng hcl.Range
}

// item is one element of a list.
type item struct {
	text   string
	number float64
	rng    hcl.Range
}

// member is one entry of an object.
type member struct {
	key    string
	text   string
	number float64
	rng    hcl.Range
}

// decode checks a raw value against a type. It reports the first thing wrong.
func (p *parser) decode(a *attr, r raw, in string) (*value, bool) {
	t, v := a.typ, &value{rng: r.rng}
	switch t.kind {
	case kindTexts, kindInts:
		return v, p.decodeList(a, r, v, in)
	case kindMap, kindNumbers:
		return v, p.decodeMap(a, r, v, in)
	case kindBool:
		if r.what != isLiteral || r.lit.IsNull() || r.lit.Type() != cty.Bool {
			return nil, p.mistyped(a, r, in)
		}
		v.flag = r.lit.True()
		return v, true
	case kindInt, kindNumber:
		n, ok := p.number(a, r, in)
		v.number = n
		return v, ok
	}
	s, ok := asText(r)
	if !ok {
		return nil, p.mistyped(a, r, in)
	}
	v.text = s
	switch t.kind {
	case kindDuration:
		return v, p.decodeDuration(a, v, in)
	case kindPercent:
		return v, p.decodePercent(a, v, in)
	case kindSize:
		return v, p.decodeSize(a, v, in)
	}
	return v, p.checkText(a, s, r.rng, in)
}

func asText(r raw) (string, bool) {
	if r.what != isLiteral || r.lit.IsNull() || r.lit.Type() != cty.String {
		return "", false
	}
	return r.lit.AsString(), true
}

// mistyped says what is there, what is meant, and how it is written.
func (p *parser) mistyped(a *attr, r raw, in string) bool {
	fix := fmt.Sprintf("For example %s = %s.", a.name, a.typ.example)
	shown := p.text(r.rng)
	if !p.hidden && len(shown) <= 40 && !strings.Contains(shown, "\n") {
		_, isText := asText(r)
		switch {
		case a.typ.kind == kindTexts && isText:
			fix = fmt.Sprintf("Write a list: %s = [%s].", a.name, shown)
		case isText && bare(a.typ, strings.Trim(shown, `"`)):
			fix = fmt.Sprintf("Write it without quotes: %s = %s.", a.name, strings.Trim(shown, `"`))
		case a.typ.kind <= kindText && r.what == isLiteral && !isText && !r.lit.IsNull():
			fix = fmt.Sprintf("Put it between double quotes: %s = %q.", a.name, shown)
		case a.typ.kind == kindPercent && !isText && r.what == isLiteral:
			fix = fmt.Sprintf("Write %s = %q.", a.name, shown+"%")
		case a.typ.kind == kindDuration && !isText && r.what == isLiteral:
			fix = fmt.Sprintf("Write the unit: %s = %q.", a.name, shown+"s")
		}
	}
	p.errorf(codeType, place{r.rng, in}, fix, "%s is %s, not %s", a.name, a.typ.article(), r.describe())
	return false
}

// bare says whether a text would be of the type without its quotes.
func bare(t *typ, text string) bool {
	switch t.kind {
	case kindInt, kindNumber:
		_, err := strconv.ParseFloat(text, 64)
		return err == nil
	case kindBool:
		return text == "true" || text == "false"
	}
	return false
}

// article puts "a" or "an" before a type's name, where it is no list of words.
func (t *typ) article() string {
	switch {
	case t.kind == kindBool || strings.HasPrefix(t.name, `"`):
		return t.name
	case strings.Contains("aeiouAEIOUR", t.name[:1]) && t.name != "user":
		return "an " + t.name
	}
	return "a " + t.name
}

func (r raw) describe() string {
	switch {
	case r.what == isList:
		return "a list"
	case r.what == isObject:
		return "an object"
	case r.lit.IsNull():
		return "null"
	case r.lit.Type() == cty.Bool:
		return "true or false"
	case r.lit.Type() == cty.Number:
		return "a number"
	}
	return "a text"
}

func (p *parser) number(a *attr, r raw, in string) (float64, bool) {
	if r.what != isLiteral || r.lit.IsNull() || r.lit.Type() != cty.Number {
		return 0, p.mistyped(a, r, in)
	}
	n, _ := r.lit.AsBigFloat().Float64()
	t := a.typ
	if n < t.min || n > t.max {
		p.errorf(codeRange, place{r.rng, in}, "", "%s is from %s to %s, not %s", a.name, plain(t.min), plain(t.max), p.text(r.rng))
		return 0, false
	}
	exact := r.lit.AsBigFloat()
	if t.kind == kindInt || t.kind == kindInts {
		if !exact.IsInt() {
			p.errorf(codeRange, place{r.rng, in}, "", "%s is a whole number, not %s", a.name, p.text(r.rng))
			return 0, false
		}
		return n, true
	}
	steps := new(big.Float).Mul(exact, big.NewFloat(100))
	whole, _ := steps.Float64()
	if rounded := float64(int64(whole + 0.5)); whole-rounded > 1e-9 || rounded-whole > 1e-9 {
		p.errorf(codeRange, place{r.rng, in}, "", "%s has steps of 0.01, and %s lies between two", a.name, p.text(r.rng))
		return 0, false
	}
	return n, true
}

func plain(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// maxDuration keeps a duration within what a proxy's config can say.
const maxDuration = 20 * 365 * 24 * time.Hour

func (p *parser) decodeDuration(a *attr, v *value, in string) bool {
	where := place{v.rng, in}
	if v.text == "none" && a.typ.none {
		v.time = mesh.None
		return true
	}
	d, err := parseDuration(v.text)
	fix := ""
	if a.typ.none {
		fix = fmt.Sprintf("To switch it off write %s = \"none\".", a.name)
	}
	switch {
	case err != nil:
		example := `For example "250ms", "3s", "5m" or "24h".`
		if a.typ.none {
			example += " " + fix
		}
		p.errorf(codeDuration, where, example, "%s = %q is no duration", a.name, v.text)
	case d < 0:
		p.errorf(codeDuration, where, fix, "%s is negative", a.name)
	case d == 0 && !a.typ.zero:
		p.errorf(codeDuration, where, fix, "%s is zero: no call would ever be in time", a.name)
	case d != 0 && d < time.Millisecond:
		p.errorf(codeDuration, where, "", "%s is shorter than a millisecond", a.name)
	case d > maxDuration:
		p.errorf(codeDuration, where, fix, "%s is longer than 20 years", a.name)
	default:
		v.time = d
		return true
	}
	return false
}

func (p *parser) decodePercent(a *attr, v *value, in string) bool {
	digits, ok := strings.CutSuffix(v.text, "%")
	n, err := strconv.ParseFloat(digits, 64)
	switch {
	case !ok && err == nil:
		p.errorf(codeFormat, place{v.rng, in}, fmt.Sprintf("Write %q.", v.text+"%"), "%s has no percent sign", a.name)
	case err != nil:
		p.errorf(codeFormat, place{v.rng, in}, `For example "5%".`, "%s = %q is no percent", a.name, v.text)
	case !(n >= 0 && n <= a.typ.max):
		p.errorf(codeRange, place{v.rng, in}, "", "%s is from 0%% to 100%%, not %s", a.name, v.text)
	default:
		v.number = n
		return true
	}
	return false
}

var sizeUnits = []struct {
	unit  string
	bytes float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

func (p *parser) decodeSize(a *attr, v *value, in string) bool {
	for _, u := range sizeUnits {
		if digits, ok := strings.CutSuffix(v.text, u.unit); ok {
			if n, err := strconv.ParseUint(digits, 10, 31); err == nil {
				v.number = float64(n) * u.bytes
				return true
			}
		}
	}
	p.errorf(codeFormat, place{v.rng, in}, `For example "64KiB" or "10MiB".`, "%s = %q is no size", a.name, v.text)
	return false
}

// checkText checks one text against the type's words or its check.
func (p *parser) checkText(a *attr, s string, rng hcl.Range, in string) bool {
	t := a.typ
	if len(t.words) > 0 && !t.lax {
		for _, w := range t.words {
			if w == s {
				return true
			}
		}
		fix := didYouMean(s, t.words)
		if nearest(s, t.words) == "" {
			fix = "It is " + oneOf(t.words) + "."
		}
		form := "%s = %s is not known"
		if a.isLabel {
			form = "%s %s is not known"
		}
		p.errorf(codeWord, place{rng, in}, fix, form, a.name, shownText(s))
		return false
	}
	if t.check == nil {
		return true
	}
	problem, fix := "", ""
	if t == filter {
		problem, fix = p.filterProblem(s)
	} else {
		problem, fix = t.check(s)
	}
	if problem == "" {
		return true
	}
	code := t.code
	if code == "" {
		code = codeFormat
	}
	p.errorf(code, place{rng, in}, fix, "%s %s %s", a.name, shownText(s), problem)
	return false
}

// shownText quotes a user's text in a message, cut where it is long.
func shownText(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return strconv.Quote(s)
}

func (p *parser) decodeList(a *attr, r raw, v *value, in string) bool {
	if r.what != isList {
		return p.mistyped(a, r, in)
	}
	if len(r.list) == 0 {
		p.errorf(codeType, place{r.rng, in}, "Name something, or leave the argument out.", "%s is an empty list", a.name)
		return false
	}
	seen := map[string]bool{}
	for _, x := range r.list {
		if a.typ.kind == kindInts {
			n, ok := p.number(a, x, in)
			if !ok {
				return false
			}
			v.items = append(v.items, item{number: n, rng: x.rng})
			continue
		}
		s, ok := asText(x)
		if !ok {
			p.errorf(codeType, place{x.rng, in}, fmt.Sprintf("For example %s = %s.", a.name, a.typ.example), "%s holds texts, not %s", a.name, x.describe())
			return false
		}
		if !p.checkText(a, s, x.rng, in) {
			return false
		}
		if seen[s] {
			p.errorf(codeTwice, place{x.rng, in}, "Keep one of them.", "%s names %s twice", a.name, shownText(s))
			return false
		}
		seen[s] = true
		v.items = append(v.items, item{text: s, rng: x.rng})
	}
	return true
}

func (p *parser) decodeMap(a *attr, r raw, v *value, in string) bool {
	if r.what != isObject {
		return p.mistyped(a, r, in)
	}
	for _, x := range r.obj {
		m := member{key: x.key, rng: x.rng}
		if a.typ.kind == kindNumbers {
			n, ok := p.number(a, x.val, in)
			if !ok {
				return false
			}
			m.number = n
		} else {
			s, ok := asText(x.val)
			if !ok {
				p.errorf(codeType, place{x.val.rng, in}, "Put it between double quotes.", "%s: the value of %q is a text, not %s", a.name, x.key, x.val.describe())
				return false
			}
			if hasControl(s) {
				p.errorf(codeFormat, place{x.val.rng, in}, "Remove it.", "%s: the value of %q has a control character", a.name, x.key)
				return false
			}
			m.text = s
		}
		if !p.checkText(a, x.key, x.rng, in) {
			return false
		}
		v.members = append(v.members, m)
	}
	return true
}
