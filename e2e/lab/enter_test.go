package lab

import (
	"strings"
	"testing"
)

func TestAnOrdinaryUserNeedsARange(t *testing.T) {
	for _, c := range []struct{ subuid, uid, name, err string }{
		{"ann:100000:65536\n", "1000", "ann", ""},
		{"1000:100000:65536\n", "1000", "ann", ""},
		{"1000:100000:65536", "1000", "", ""},
		{"", "1000", "ann", "--add-subgids 100000-165535 ann"},
		{"anna:100000:65536\n", "1000", "ann", "no line for ann:"},
		{":100000:65536\n", "1000", "", "echo 1000:100000:65536"},
	} {
		err := hasRange(c.subuid, c.uid, c.name)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q, %s %q: %v", c.subuid, c.uid, c.name, err)
		}
	}
}
