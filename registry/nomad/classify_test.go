package nomad

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// What is refused is named with what mends it.
func TestARefusedTokenIsSaidWithItsRemedy(t *testing.T) {
	for _, c := range []struct {
		code int
		text string
		is   mesh.SourceState
		want string
	}{
		{403, "Permission denied", mesh.SourceDenied, `a policy of it needs namespace "*" { policy = "read" }`},
		{403, "ACL token not found", mesh.SourceDenied, "write one that is good into token_file"},
		{403, "ACL token expired", mesh.SourceDenied, "write one that is good into token_file"},
		{500, "No cluster leader", mesh.SourceError, "No cluster leader"},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, c.text, c.code) }))
		client, err := api.NewClient(&api.Config{Address: web.URL})
		if err != nil {
			t.Fatal(err)
		}
		var out any
		_, err = client.Raw().Query("/v1/service/api", &out, nil)
		web.Close()
		v := refusal(`the service "api" of namespace "team"`, err)
		if v.state != c.is || !strings.Contains(v.why, c.want) || !strings.Contains(v.why, `the service "api" of namespace "team"`) {
			t.Errorf("%s: %s %q, not %q", c.text, v.state, v.why, c.want)
		}
	}
}
