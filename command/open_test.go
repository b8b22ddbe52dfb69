package command

import (
	"testing"

	"github.com/kerege/kerege/api"
)

func TestPlanSaysWhatBecomesOfOpenConnections(t *testing.T) {
	for _, c := range []struct {
		call api.CallChange
		want string
	}{
		{api.CallChange{Then: "everything"}, ""},
		{api.CallChange{Then: "refused", Open: "cut"}, "; open ones are cut"},
		{api.CallChange{Then: "refused", Open: "finish"}, "; open ones finish"},
		{api.CallChange{Then: "GET", Open: "cut"}, "; open ones beyond that are cut"},
	} {
		if got := openWords(c.call); got != c.want {
			t.Errorf("%+v: %q, want %q", c.call, got, c.want)
		}
	}
}
