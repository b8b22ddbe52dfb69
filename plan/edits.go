package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/kerege/kerege/mesh"
)

// edits says in words what two values of one block's type do not have alike.
func edits(old, new any) []Edit {
	var w wording
	w.fields("", mesh.Pos{}, reflect.ValueOf(old), reflect.ValueOf(new))
	return w.list
}

// wording walks two values of one type.
type wording struct{ list []Edit }

func (w *wording) add(path, what string, pos mesh.Pos) {
	w.list = append(w.list, Edit{strings.TrimSpace(path + " " + what), pos})
}

// notWritten are fields that no file says: what follows from others, or names the block.
var notWritten = map[string]bool{"Pos": true, "Match": true, "Safe": true, "OneHost": true, "Label": true}

// attributes are the names in the files that are not the field's in other letters.
var attributes = map[string]string{"Addr": "address", "Number": "port"}

func (w *wording) fields(path string, pos mesh.Pos, old, new reflect.Value) {
	for _, v := range []reflect.Value{old, new} {
		if p := posOf(v); p != (mesh.Pos{}) {
			pos = p
		}
	}
	for i := range old.NumField() {
		f := old.Type().Field(i)
		a, b := old.Field(i), new.Field(i)
		switch {
		case !f.IsExported() || notWritten[f.Name] || reflect.DeepEqual(a.Interface(), b.Interface()):
		case f.Anonymous:
			w.fields(path, pos, a, b)
		case f.Type == reflect.TypeFor[*mesh.Places](): // its arguments stand in the block itself
			w.fields(path, pos, orZero(a), orZero(b))
		default:
			w.field(path, attribute(f.Name), pos, a, b)
		}
	}
}

func (w *wording) field(path, name string, pos mesh.Pos, a, b reflect.Value) {
	inner := a.Type()
	if inner.Kind() == reflect.Pointer {
		inner = inner.Elem()
	}
	switch {
	case isBlock(inner) && a.Kind() == reflect.Pointer && (a.IsNil() || b.IsNil()):
		if b.IsNil() {
			w.add(path, name+" removed", posOf(a.Elem()))
		} else {
			w.add(path, name+" added: "+inside(b.Elem()), posOf(b.Elem()))
		}
	case isBlock(inner):
		w.fields(within(path, name), pos, reflect.Indirect(a), reflect.Indirect(b))
	case a.Kind() == reflect.Slice && isBlock(a.Type().Elem()):
		w.blocks(path, pos, a, b)
	case a.Kind() == reflect.Map:
		w.keys(path, name, pos, a, b)
	default:
		w.add(path, name+" "+said(name, a)+" → "+said(name, b), pos)
	}
}

// blocks compares lists of blocks: by name where they have one, else those that are
// alike are each other's, and the rest are in their order.
func (w *wording) blocks(path string, pos mesh.Pos, a, b reflect.Value) {
	was, is := labels(a), labels(b)
	named := func(list []string) bool { return !slices.Contains(list, "") }
	if !named(was) || !named(is) {
		was, is = pairUp(a, b)
	}
	kind := blockNames[a.Type().Elem().Name()]
	for i, l := range was {
		if !slices.Contains(is, l) {
			w.add(path, entry(a.Index(i), kind)+" removed", posOf(a.Index(i)))
		}
	}
	for i, l := range is {
		j := slices.Index(was, l)
		if j < 0 {
			text := entry(b.Index(i), kind) + " added"
			if in := inside(b.Index(i)); in != "" {
				text += ": " + in
			}
			w.add(path, text, posOf(b.Index(i)))
			continue
		}
		w.fields(within(path, entry(b.Index(i), kind)), pos, a.Index(j), b.Index(i))
	}
	if kind != "rule" { // only there the order counts
		return
	}
	stay := func(list, other []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(l string) bool { return !slices.Contains(other, l) })
	}
	if from, to := stay(was, is), stay(is, was); !slices.Equal(from, to) {
		w.add(path, "rules reordered: "+strings.Join(from, ", ")+" → "+strings.Join(to, ", "), pos)
	}
}

// blockNames are what the blocks are called in the files.
var blockNames = map[string]string{"Rule": "rule", "Match": "match", "ValueMatch": "condition", "Target": "to", "Port": "port",
	"Subset": "subset", "SourceRef": "source", "Permission": "", "Instance": "instance"}

// labels name each block of a list; "" has no name, or not one of its own.
func labels(list reflect.Value) []string {
	all := make([]string, list.Len())
	for i := range all {
		all[i] = labelOf(list.Index(i))
		if slices.Index(all, all[i]) < i {
			all[i] = ""
		}
	}
	return all
}

func labelOf(v reflect.Value) string {
	switch b := v.Interface().(type) {
	case mesh.Rule:
		return b.Name
	case mesh.Target:
		return targetName(b)
	case mesh.Port:
		if b.Name == "" {
			return fmt.Sprint(b.Number)
		}
		return b.Name
	case mesh.Subset:
		return b.Name
	case mesh.SourceRef:
		return b.Kind
	case mesh.ValueMatch:
		return b.Name
	case mesh.Permission:
		if b.Name != "" {
			return string(b.Action) + " " + b.Name
		}
	}
	return ""
}

func targetName(t mesh.Target) string {
	if t.Subset == "" {
		return string(t.Service)
	}
	return string(t.Service) + "." + t.Subset
}

// pairUp gives names to blocks that have none: what is alike has one name.
func pairUp(a, b reflect.Value) (was, is []string) {
	was, is = make([]string, a.Len()), make([]string, b.Len())
	n := 0
	for _, alike := range []bool{true, false} {
		for i := range was {
			for j := range is {
				if was[i] == "" && is[j] == "" && samePurpose(a.Index(i), b.Index(j)) && (!alike || len(edits(a.Index(i).Interface(), b.Index(j).Interface())) == 0) {
					n++
					was[i], is[j] = "#"+strconv.Itoa(n), "#"+strconv.Itoa(n)
				}
			}
		}
	}
	for _, list := range [][]string{was, is} {
		for i := range list {
			if list[i] == "" {
				n++
				list[i] = "#" + strconv.Itoa(n)
			}
		}
	}
	return was, is
}

// samePurpose says whether one block may have become the other: an allow becomes no deny.
func samePurpose(a, b reflect.Value) bool {
	x, is := a.Interface().(mesh.Permission)
	return !is || x.Action == b.Interface().(mesh.Permission).Action
}

// entry is how one block of a list is called.
func entry(v reflect.Value, kind string) string {
	if p, is := v.Interface().(mesh.Permission); is {
		text := string(p.Action) + " of " + strings.Join(p.From, ", ")
		if p.Name != "" {
			text = fmt.Sprintf("%s %q", p.Action, p.Name)
		}
		return text
	}
	return strings.TrimSpace(kind + " " + quoted(labelOf(v)))
}

// keys compares maps: headers and metadata.
func (w *wording) keys(path, name string, pos mesh.Pos, a, b reflect.Value) {
	var names []string
	for _, m := range []reflect.Value{a, b} {
		for _, k := range m.MapKeys() {
			names = append(names, k.String())
		}
	}
	slices.Sort(names)
	for _, k := range slices.Compact(names) {
		was, is := a.MapIndex(reflect.ValueOf(k)), b.MapIndex(reflect.ValueOf(k))
		switch {
		case !was.IsValid():
			w.add(path, fmt.Sprintf("%s %s = %q added", name, k, fmt.Sprint(is.Interface())), pos)
		case !is.IsValid():
			w.add(path, fmt.Sprintf("%s %s removed", name, k), pos)
		case was.Interface() != is.Interface():
			w.add(path, fmt.Sprintf("%s %s %q → %q", name, k, fmt.Sprint(was.Interface()), fmt.Sprint(is.Interface())), pos)
		}
	}
}

// inside is what a block says, in one line.
func inside(v reflect.Value) string {
	var parts []string
	for i := range v.NumField() {
		f, x := v.Type().Field(i), v.Field(i)
		if !f.IsExported() || notWritten[f.Name] || x.IsZero() || named(v, f.Name) {
			continue
		}
		inner := x
		if x.Kind() == reflect.Pointer {
			inner = x.Elem()
		}
		switch {
		case f.Anonymous || f.Type == reflect.TypeFor[*mesh.Places]():
			parts = append(parts, inside(inner))
		case isBlock(inner.Type()):
			parts = append(parts, attribute(f.Name)+" ("+inside(inner)+")")
		case x.Kind() == reflect.Slice && isBlock(x.Type().Elem()):
			for j := range x.Len() {
				text := entry(x.Index(j), blockNames[x.Type().Elem().Name()])
				if in := inside(x.Index(j)); in != "" {
					text += " (" + in + ")"
				}
				parts = append(parts, text)
			}
		default:
			parts = append(parts, attribute(f.Name)+" "+said(attribute(f.Name), x))
		}
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ", ")
}

// named are the fields that entry has said already.
func named(v reflect.Value, field string) bool {
	switch v.Interface().(type) {
	case mesh.Rule, mesh.Subset, mesh.ValueMatch:
		return field == "Name"
	case mesh.Port:
		return field == "Name"
	case mesh.Target:
		return field == "Service" || field == "Subset"
	case mesh.SourceRef:
		return field == "Kind"
	case mesh.Permission:
		return field == "Action" || field == "Name" || field == "From" && v.FieldByName("Name").String() == ""
	}
	return false
}

// said is one value as a person writes it.
func said(name string, v reflect.Value) string {
	pointer := v.Kind() == reflect.Pointer
	if pointer {
		if v.IsNil() {
			return "not said"
		}
		v = v.Elem()
	} else if v.IsZero() {
		return "not said"
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		if x == mesh.None {
			return "none"
		}
		return x.String()
	case uint32:
		if name == "weight" && pointer { // of a target; an instance's is a number
			return strconv.FormatFloat(float64(x)/100, 'f', -1, 64) + " %"
		}
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64) + " %"
	case []string:
		return strings.Join(x, ", ")
	case map[string]string:
		var pairs []string
		for _, k := range slices.Sorted(maps.Keys(x)) {
			pairs = append(pairs, fmt.Sprintf("%s = %q", k, x[k]))
		}
		return strings.Join(pairs, ", ")
	case netip.AddrPort:
		return x.String()
	case string:
		return x
	}
	return fmt.Sprint(v.Interface())
}

// orZero is what a pointer points to, or, if to nothing, what says nothing.
func orZero(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

func within(path, name string) string { return strings.TrimSpace(path+" "+name) + ":" }

// isBlock says whether a type is a block of the language, or a part of one.
func isBlock(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.PkgPath() == reflect.TypeFor[mesh.Pos]().PkgPath()
}

func posOf(v reflect.Value) mesh.Pos {
	if f := v.FieldByName("Pos"); f.IsValid() {
		if p, is := f.Interface().(mesh.Pos); is {
			return p
		}
	}
	return mesh.Pos{}
}

// attribute is a field's name as the files have it: IdleTimeout is idle_timeout.
func attribute(field string) string {
	if name, other := attributes[field]; other {
		return name
	}
	var b strings.Builder
	runes := []rune(field)
	for i, r := range runes {
		if i > 0 && (unicode.IsUpper(r) && !unicode.IsUpper(runes[i-1]) || unicode.IsDigit(r) && !unicode.IsDigit(runes[i-1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
