package config

import (
	"reflect"
	"slices"
	"testing"
)

// TestEveryDifferenceHasAName: a field that somebody adds is named as the files spell it.
func TestEveryDifferenceHasAName(t *testing.T) {
	a, _ := LoadAgentBytes(map[string][]byte{"agent.hcl": []byte("workload \"web\" { user = \"web\" }\n")})
	same, _ := LoadAgentBytes(map[string][]byte{"agent.hcl": []byte("# moved\n\nworkload \"web\" {\n  user = \"web\"\n}\n")})
	if d := a.Differs(same); len(d) > 0 {
		t.Errorf("the same settings in other words differ: %v", d)
	}
	s, _ := LoadServerBytes(nil)
	for _, of := range []struct {
		base    any
		schema  *block
		differs func(any) []string
	}{
		{*a, agentSchemaOnce(), func(b any) []string { x := b.(Agent); return a.Differs(&x) }},
		{*s, serverSchemaOnce(), func(b any) []string { x := b.(Server); return s.Differs(&x) }},
	} {
		for i := range reflect.TypeOf(of.base).NumField() {
			other := reflect.New(reflect.TypeOf(of.base)).Elem()
			other.Set(reflect.ValueOf(of.base))
			change(other.Field(i))
			got := of.differs(other.Interface())
			if len(got) == 0 || slices.ContainsFunc(got, func(n string) bool { return !slices.Contains(of.schema.names(), n) }) {
				t.Errorf("%s.%s: %q", other.Type(), other.Type().Field(i).Name, got)
			}
		}
	}
}

// change makes a value another one.
func change(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Slice:
		v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 9), reflect.Zero(v.Type().Elem()), reflect.Zero(v.Type().Elem())))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		change(v.Field(0))
	}
}
