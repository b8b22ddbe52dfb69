package parts

import "testing"

func TestFindTakesAProgramFromTheEnvironmentAndNotMakesSwitch(t *testing.T) {
	t.Setenv("CONSUL", "/opt/consul")
	if p, err := Find("consul"); err != nil || p != "/opt/consul" {
		t.Errorf("CONSUL=/opt/consul: found %q, %v", p, err)
	}
	t.Setenv("CONSUL", "1")
	if p, _ := Find("consul"); p == "1" {
		t.Error("CONSUL=1 of `make demo CONSUL=1` was taken for a program")
	}
}
