package consul

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/mesh"
)

func consulPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/consul.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is the page's text from one heading to the next.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(consulPage(t), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/consul.md has no heading %q", heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// sample is a registration in which every field that is read decides something.
func sample() *api.ServiceEntry {
	return &api.ServiceEntry{
		Node:    &api.Node{Node: "vm-1", Address: "10.0.0.1"},
		Service: &api.AgentService{ID: "api-1", Service: "api", Port: 8080, Weights: api.AgentWeights{Passing: 1, Warning: 1}},
	}
}

// other gives a value that no field of the sample has, down to a depth: some types
// hold themselves.
func other(v reflect.Value, depth int) {
	if depth == 0 {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("192.0.2.9")
	case reflect.Int:
		v.SetInt(9)
	case reflect.Uint64:
		v.SetUint(9)
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		other(v.Elem(), depth-1)
	case reflect.Struct:
		for i := range v.NumField() {
			other(v.Field(i), depth-1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		other(v.Index(0), depth-1)
	case reflect.Map:
		val := reflect.New(v.Type().Elem()).Elem()
		if val.Kind() != reflect.Interface {
			other(val, depth-1)
		}
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("wan"), val)
	}
}

// The table of the page names the fields that change an instance, and no other.
func TestThePageNamesAllThatIsRead(t *testing.T) {
	read := map[string]bool{}
	try := func(prefix string, of any, entry func(reflect.Value) *api.ServiceEntry) {
		typ := reflect.TypeOf(of)
		for i := range typ.NumField() {
			v := reflect.New(typ).Elem()
			before := convert("api", "", []*api.ServiceEntry{entry(v)})
			other(v.Field(i), 4)
			if after := convert("api", "", []*api.ServiceEntry{entry(v)}); !reflect.DeepEqual(before, after) {
				read[prefix+"."+typ.Field(i).Name] = true
			}
		}
	}
	// Each value is laid over the sample: a zero field leaves it as it is.
	over := func(to, from reflect.Value) {
		for i := range from.NumField() {
			if !from.Field(i).IsZero() {
				to.Field(i).Set(from.Field(i))
			}
		}
	}
	try("Node", api.Node{}, func(v reflect.Value) *api.ServiceEntry {
		e := sample()
		over(reflect.ValueOf(e.Node).Elem(), v)
		return e
	})
	try("Service", api.AgentService{}, func(v reflect.Value) *api.ServiceEntry {
		e := sample()
		over(reflect.ValueOf(e.Service).Elem(), v)
		return e
	})
	try("Checks", api.HealthCheck{}, func(v reflect.Value) *api.ServiceEntry {
		e, check := sample(), &api.HealthCheck{Status: "passing"}
		over(reflect.ValueOf(check).Elem(), v)
		e.Checks = api.HealthChecks{check}
		return e
	})
	said := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]\\w+\\.\\w+)` \\|").FindAllStringSubmatch(section(t, "3. All that is read"), -1) {
		said[m[1]] = true
	}
	if got, want := slices.Sorted(maps.Keys(said)), slices.Sorted(maps.Keys(read)); !slices.Equal(got, want) {
		t.Errorf("docs/consul.md says that these are read:\n%q\nand these are:\n%q", got, want)
	}
}

// The words of the page for checks, states and protocols are those of the code.
func TestThePageSaysWhatTheWordsDo(t *testing.T) {
	checks := section(t, "4. Checks")
	for status, want := range map[string]mesh.Health{"passing": mesh.Healthy, "warning": mesh.Warning, "critical": mesh.Unhealthy, "maintenance": mesh.Unhealthy} {
		row := fmt.Sprintf("\n| `%s` | %s", status, map[mesh.Health]string{mesh.Healthy: "call it", mesh.Warning: "call it, with", mesh.Unhealthy: "do not call it"}[want])
		if got := health(api.HealthChecks{{Status: status}}); got != want || !strings.Contains(checks, row) {
			t.Errorf("%s is %v; the page does not say %q", status, got, row)
		}
	}
	states := section(t, "6. When Consul is away, or says less")
	for _, s := range []mesh.SourceState{mesh.SourceOK, mesh.SourceFiltered, mesh.SourceStale, mesh.SourceDenied, mesh.SourceError} {
		if !strings.Contains(states, fmt.Sprintf("\n| `%s` |", s)) {
			t.Errorf("the page does not say what %s is", s)
		}
	}
	for _, figure := range []string{fmt.Sprintf("more than %d s old", int(maxContact.Seconds())), fmt.Sprintf("grow to %d s", 15)} {
		if !strings.Contains(states, figure) {
			t.Errorf("the page does not say %q", figure)
		}
	}
	_, words, _ := strings.Cut(section(t, "2. A registration"), "`kerege-protocol=grpc`: ")
	words, _, _ = strings.Cut(words, ". ")
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(words, -1) {
		for _, svc := range []*api.AgentService{{Meta: map[string]string{"kerege-protocol": m[1]}}, {Tags: []string{"kerege-protocol=" + m[1]}}} {
			if got := protocol(svc); string(got) != m[1] {
				t.Errorf("the page says %q is a protocol; it is read as %q", m[1], got)
			}
		}
	}
	if strings.Count(words, "`") != 2*5 {
		t.Errorf("the page names other protocols than five: %s", words)
	}
}
