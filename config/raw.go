package config

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// raw is a value as written: a literal, a list or an object of them, with the
// place of each part. Both syntaxes, native and JSON, become raw.
type raw struct {
	lit  cty.Value // of a literal, else cty.NilVal
	list []raw
	obj  []pair
	what shape
	rng  hcl.Range
}

type shape uint8

const (
	isLiteral shape = iota
	isList
	isObject
)

type pair struct {
	key string
	rng hcl.Range
	val raw
}

// nodes of the AST are walked, not evaluated: duplicate keys show, and no
// expression can cost time or memory.
func (p *parser) native(e hclsyntax.Expression, in string) (raw, bool) {
	switch e := e.(type) {
	case *hclsyntax.LiteralValueExpr:
		return raw{lit: e.Val, rng: e.SrcRange}, true
	case *hclsyntax.TemplateExpr:
		return p.template(e, in)
	case *hclsyntax.UnaryOpExpr:
		if lit, ok := e.Val.(*hclsyntax.LiteralValueExpr); ok && e.Op == hclsyntax.OpNegate && lit.Val.Type() == cty.Number {
			return raw{lit: lit.Val.Negate(), rng: e.SrcRange}, true
		}
	case *hclsyntax.TupleConsExpr:
		out := raw{what: isList, rng: e.SrcRange, list: make([]raw, 0, len(e.Exprs))}
		for _, x := range e.Exprs {
			r, ok := p.native(x, in)
			if !ok {
				return raw{}, false
			}
			out.list = append(out.list, r)
		}
		return out, true
	case *hclsyntax.ObjectConsExpr:
		return p.object(e, in)
	case *hclsyntax.ScopeTraversalExpr:
		word, fix := p.text(e.SrcRange), "Put text between double quotes."
		if p.hidden {
			word = "a bare word"
		} else {
			fix = "Put text between double quotes: " + quoted(word) + "."
		}
		p.errorf(codeExpr, place{e.SrcRange, in}, fix, "%s is no value: there are no variables in the language", word)
		return raw{}, false
	}
	p.errorf(codeExpr, place{e.Range(), in}, "Write the plain value.", "an expression stands where a plain value is meant")
	return raw{}, false
}

// template joins the literal parts of a string; the prescan left no others.
func (p *parser) template(e *hclsyntax.TemplateExpr, in string) (raw, bool) {
	var s string
	for _, part := range e.Parts {
		lit, ok := part.(*hclsyntax.LiteralValueExpr)
		if !ok || lit.Val.Type() != cty.String {
			p.errorf(codeString, place{part.Range(), in}, `Double the first character where the text is meant: "$${" or "%%{".`, "the text holds a template, and the language has none")
			return raw{}, false
		}
		s += lit.Val.AsString()
	}
	return raw{lit: cty.StringVal(s), rng: e.SrcRange}, true
}

func (p *parser) object(e *hclsyntax.ObjectConsExpr, in string) (raw, bool) {
	out := raw{what: isObject, rng: e.SrcRange}
	for _, item := range e.Items {
		key, ok := item.KeyExpr.(*hclsyntax.ObjectConsKeyExpr)
		if !ok {
			return raw{}, false
		}
		name := hcl.ExprAsKeyword(key.Wrapped)
		if name == "" {
			k, ok := p.native(key.Wrapped, in)
			if !ok {
				return raw{}, false
			}
			if k.what != isLiteral || k.lit.IsNull() || k.lit.Type() != cty.String {
				p.errorf(codeType, place{k.rng, in}, `Write the key as "text".`, "an object's key is a text")
				return raw{}, false
			}
			name = k.lit.AsString()
		}
		val, ok := p.native(item.ValueExpr, in)
		if !ok {
			return raw{}, false
		}
		out.obj = append(out.obj, pair{key: name, rng: item.KeyExpr.Range(), val: val})
	}
	return out, p.keysOnce(out.obj, in)
}

// keysOnce refuses an object that names a key twice: hcl keeps the last, silently.
func (p *parser) keysOnce(obj []pair, in string) bool {
	seen := make(map[string]hcl.Range, len(obj))
	for _, x := range obj {
		if first, ok := seen[x.key]; ok {
			d := p.errorf(codeKeyTwice, place{x.rng, in}, "Keep one of them.", "the key %q is there twice", x.key)
			p.relate(d, first, "first here")
			return false
		}
		seen[x.key] = x.rng
	}
	return true
}

// json turns a JSON expression into raw. Its strings are literal: no templates.
func (p *parser) json(e hcl.Expression, in string) (raw, bool) {
	if pairs, diags := hcl.ExprMap(e); !diags.HasErrors() {
		out := raw{what: isObject, rng: e.Range()}
		for _, x := range pairs {
			k, _ := x.Key.Value(nil)
			if k.IsNull() || !k.IsKnown() || k.Type() != cty.String {
				continue
			}
			val, ok := p.json(x.Value, in)
			if !ok {
				return raw{}, false
			}
			out.obj = append(out.obj, pair{key: k.AsString(), rng: x.Key.Range(), val: val})
		}
		return out, p.keysOnce(out.obj, in)
	}
	if list, diags := hcl.ExprList(e); !diags.HasErrors() {
		out := raw{what: isList, rng: e.Range()}
		for _, x := range list {
			r, ok := p.json(x, in)
			if !ok {
				return raw{}, false
			}
			out.list = append(out.list, r)
		}
		return out, true
	}
	v, diags := e.Value(nil)
	if diags.HasErrors() {
		p.foreign(diags)
		return raw{}, false
	}
	return raw{lit: v, rng: e.Range()}, true
}
