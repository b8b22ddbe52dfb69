package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

func TestFilter(t *testing.T) {
	i := &mesh.Instance{ID: "api-1", Source: "nomad", Datacenter: "dc1", Namespace: "default", Node: "vm-7",
		Addr: netip.MustParseAddrPort("10.0.0.7:8080"), Tags: []string{"blue", "canary"},
		Meta: map[string]string{"version": "v1", "a.b": "c", "empty": ""}, NodeMeta: map[string]string{"rack": "r1"}}
	for expr, want := range map[string]bool{
		"Service.Meta.version == v1":                     true,
		`Service.Meta.version == "v1"`:                   true,
		"Service.Meta.version != v1":                     false,
		"Service.Meta.region == eu":                      false,
		`Service.Meta.region == ""`:                      false,
		`Service.Meta.empty == ""`:                       true,
		"Service.Meta.region != eu":                      true,
		"Service.Meta.region is empty":                   true,
		"Service.Meta.empty is empty":                    true,
		"Service.Meta.version is not empty":              true,
		"canary in Service.Tags":                         true,
		"canary not in Service.Tags":                     false,
		"can in Service.Tags":                            false,
		"Service.Tags is empty":                          false,
		"version in Service.Meta":                        true,
		"region in Service.Meta":                         false,
		"Service.Meta.a.b == c":                          true,
		"Service.Port == 8080":                           true,
		"Service.Port != 80":                             true,
		"Service.ID == `api-1`":                          true,
		"Source == nomad":                                true,
		"Source == consul":                               false,
		"Node == `vm-7` and Node.Meta.rack == r1":        true,
		"Datacenter == dc2 or Namespace == default":      true,
		"not (Datacenter == dc1)":                        false,
		"Service.Meta.version matches `v[0-9]+`":         true,
		"Service.Meta.version not matches `v[2-9]`":      true,
		"Service.Tags matches `^can`":                    true,
		"Node.Meta matches `^ra`":                        true,
		"(((((Node == `vm-7`)))))":                       true,
		"Service.Tags contains canary":                   true,
		"(canary in Service.Tags) and not (Node == vm1)": true,
	} {
		m, err := CompileFilter(expr)
		if err != nil {
			t.Errorf("%s %v", expr, err)
			continue
		}
		if got := m.Match(i); got != want {
			t.Errorf("%s is %v", expr, got)
		}
		again, _ := CompileFilter(expr)
		if !reflect.DeepEqual(m, again) {
			t.Errorf("%s: compiled twice, not equal", expr)
		}
	}
}

func TestFilterRefused(t *testing.T) {
	for expr, want := range map[string]string{
		"":                                   "is empty",
		"  ":                                 "is empty",
		"Service.Meta.version = v1":          "does not parse",
		"Service.Address == `1.2.3.4`":       "names Service.Address, which no instance has",
		"nothing == x":                       "names nothing, which no instance has",
		"Service.Tags == x":                  "compares a list",
		"Service.Port == http":               "no port",
		"Service.ID matches `(`":             "not RE2",
		"all Service.Tags as t { t == x }":   "any or all",
		strings.Repeat("a", 2000):            "more than 1024 characters",
		strings.Repeat("(", 500):             "nests more than",
		strings.Repeat("not ", 200) + "x==y": "",
		"Node == a" + strings.Repeat(" or Node == a", 70): "",
	} {
		start := time.Now()
		_, err := CompileFilter(expr)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%.40s took %v", expr, took)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40s: got %v, want %q", expr, err, want)
		}
	}
}

func TestFilterFix(t *testing.T) {
	for expr, want := range map[string]string{
		"Service.Metta.version == v1": `"Service.Meta.version"`,
		"service.tags is empty":       `"Service.Tags"`,
		"Service.Meta.version = v1":   `Compare with ==`,
	} {
		if _, fix := checkFilter(expr); !strings.Contains(fix, want) {
			t.Errorf("%s: fix is %s", expr, fix)
		}
	}
}
