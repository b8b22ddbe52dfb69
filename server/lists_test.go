package server

import (
	"strings"
	"testing"
)

// A list that is empty is [] in every answer: scripts need not ask whether it is there.
func TestEmptyListsAreLists(t *testing.T) {
	for what, text := range map[string]string{
		"nothing": "mesh { trust_domain = \"test.example\" }\n",
		"a mesh":  files,
	} {
		r := newRig(t)
		r.write(text)
		r.start()
		for path := range r.s.routes() {
			method, path, _ := strings.Cut(path, " ")
			body := ""
			switch {
			case path == "/v1/explain":
				body = `{"from":"web","to":"api"}`
			case method == "POST" && path != "/v1/plan" && path != "/v1/apply":
				continue
			}
			if code, answer := r.ask("", method, path, body); code != 200 || strings.Contains(answer, "null") {
				t.Errorf("%s %s of %s: %d %s", method, path, what, code, answer)
			}
		}
		noError(t, r.stop())
	}
}
