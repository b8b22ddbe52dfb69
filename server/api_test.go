package server

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/api"
)

func TestNothingButHealthIsOpen(t *testing.T) {
	r := newRig(t).start()
	if code, text := r.ask(r.https(), "GET", "/healthz", ""); code != 200 || text != "ok\n" {
		t.Errorf("healthz: %d %q", code, text)
	}
	asks := []string{"GET /metrics", "GET /", "GET /v1/nothing", "GET /debug/pprof/", "POST /healthz"}
	for pattern := range r.s.routes() {
		asks = append(asks, strings.ReplaceAll(pattern, "{service}", "web"))
	}
	for _, ask := range asks {
		method, path, _ := strings.Cut(ask, " ")
		for what, headers := range map[string][]string{
			"no token": nil, "an empty one": {"X-Kerege-Token", ""}, "a wrong one": {"X-Kerege-Token", "ko_" + strings.Repeat("0", 64)},
			"half of it": {"X-Kerege-Token", r.s.secret[:20]}, "a wrong bearer": {"Authorization", "Bearer x"}, "an empty bearer": {"Authorization", "Bearer "},
			"basic": {"Authorization", "Basic " + r.s.secret}, "in a cookie": {"Cookie", "token=" + r.s.secret},
			"another host's name": {"X-Forwarded-For", "127.0.0.1", "Host", "localhost"},
		} {
			code, text := r.ask(r.https(), method, path, "{}", headers...)
			if code != 403 || !strings.Contains(text, "operator-token") || strings.Contains(text, r.s.secret) {
				t.Errorf("%s with %s: %d %s", ask, what, code, text)
			}
		}
	}
	if code, text := r.ask(r.https(), "GET", "/v1/status?token="+r.s.secret, ""); code != 403 {
		t.Errorf("a token in the URL lets in: %d %s", code, text)
	}
	for _, headers := range [][]string{{"X-Kerege-Token", r.s.secret}, {"Authorization", "Bearer " + r.s.secret}} {
		code, text := r.ask(r.https(), "GET", "/v1/status", "", headers...)
		if st := (api.Status{}); code != 200 || json.Unmarshal([]byte(text), &st) != nil || st.Server != "s1" || st.Version != "1.2.3" {
			t.Errorf("with %s: %d %s", headers[0], code, text)
		}
	}
	if gen := local[api.Status](r, "GET", "/v1/status", "").Generation.Number; gen != 1 {
		t.Errorf("one of the refused requests applied generation %d", gen)
	}
}

func TestWhatTheAPISays(t *testing.T) {
	r := newRig(t).start()
	st := local[api.Status](r, "GET", "/v1/status", "")
	if st.TrustDomain != "test.example" || st.MTLS != "strict" || st.DefaultIntention != "deny" || st.Services != 2 || !st.Ready || st.Generation.Files != 1 ||
		len(st.Held) != 2 || st.Held[0].Service != "api" || !strings.Contains(st.Held[0].Reason, "kerege join") || st.CA.BundleHash == "" || len(st.Sources) != 1 || st.Sources[0].State != "ok" {
		t.Errorf("%+v", st)
	}
	services := local[[]api.Service](r, "GET", "/v1/services", "")
	if len(services) != 2 || services[0].Name != "api" || len(services[0].Instances) != 1 || services[0].Callers[0] != "web" || !strings.HasSuffix(services[0].Where, "mesh.hcl:11") {
		t.Errorf("%+v", services)
	}
	intentions := local[[]api.Intention](r, "GET", "/v1/intentions", "")
	if len(intentions) != 1 || intentions[0].Destination != "api" || intentions[0].From[0] != "web" || intentions[0].What != "everything" {
		t.Errorf("%+v", intentions)
	}
	if b := local[map[string]string](r, "GET", "/v1/ca/bundle", ""); b["bundle"] != string(r.s.ca.Bundle()) {
		t.Errorf("%v", b)
	}
	if _, text := r.ask("", "GET", "/v1/proxies", ""); strings.TrimSpace(text) != "[]" {
		t.Errorf("no proxies: %s, want an empty list", text)
	}
	for from, allowed := range map[string]bool{"web": true, "bank": false} {
		e := local[api.Explain](r, "POST", "/v1/explain", `{"from":"`+from+`","to":"api","method":"GET","path":"/"}`)
		if reason := e.Steps; len(reason) == 0 || !allowed && (e.Allowed || !strings.Contains(e.Fix, "intention")) {
			t.Errorf("%s: %+v", from, e)
		}
	}
}

// A request that is wrong, too big or hostile is refused with a sentence, and
// nothing of it comes back to a terminal.
func TestHostileRequests(t *testing.T) {
	r := newRig(t).start()
	big := `{"from":"` + strings.Repeat("a", maxBody) + `","to":"api"}`
	for what, c := range map[string]struct {
		method, path, body string
		code               int
		says               string
	}{
		"no body":               {"POST", "/v1/explain", "", 400, "reading the request"},
		"no JSON":               {"POST", "/v1/explain", "from=web", 400, "reading the request"},
		"an unknown field":      {"POST", "/v1/explain", `{"from":"web","too":"api"}`, 400, "too"},
		"two values":            {"POST", "/v1/explain", `{"from":"web","to":"api"}{"from":"bank","to":"api"}`, 400, "reading the request"},
		"too big":               {"POST", "/v1/explain", big, 413, "1 MiB"},
		"too deep":              {"POST", "/v1/explain", strings.Repeat("[", 100_000), 400, "reading the request"},
		"a terminal's escape":   {"POST", "/v1/explain", `{"from":"\u001b[2Jweb","to":"api"}`, 400, "from"},
		"a path for a name":     {"POST", "/v1/explain", `{"from":"web","to":"../../etc/passwd"}`, 400, "to"},
		"markup for a name":     {"POST", "/v1/explain", `{"from":"<script>","to":"api"}`, 400, "from"},
		"another script's name": {"POST", "/v1/explain", `{"from":"wеb","to":"api"}`, 400, "from"},
		"no name":               {"POST", "/v1/explain", `{"to":"api"}`, 400, "from"},
		"a token for a path":    {"POST", "/v1/tokens", `{"node":"../x"}`, 400, "node"},
		"a token from the past": {"POST", "/v1/tokens", `{"node":"vm-7","ttl_seconds":-5}`, 400, ""},
		"a token for ever":      {"POST", "/v1/tokens", `{"node":"vm-7","ttl_seconds":1e300}`, 400, ""},
		"nothing held back":     {"POST", "/v1/guard/web", "", 404, "nothing is held back"},
		"a guard's hostile":     {"POST", "/v1/guard/%1b%5b2Jweb", "", 404, "nothing is held back"},
		"a read that writes":    {"GET", "/v1/apply", "", 405, ""},
		"a write that reads":    {"DELETE", "/v1/status", "", 405, ""},
		"nowhere":               {"GET", "/v1/nowhere", "", 404, ""},
	} {
		code, text := r.ask("", c.method, c.path, c.body)
		if code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %.300s, want %d saying %q", what, code, text, c.code, c.says)
		}
		if strings.Contains(text, "\x1b") || len(text) > 2000 {
			t.Errorf("%s: hostile text comes back: %.200q", what, text)
		}
	}
	for _, line := range strings.Split(r.log.String(), "\n") {
		if strings.Contains(line, "\x1b") {
			t.Errorf("hostile text in the log: %q", line)
		}
	}
	if n := strings.Count(r.log.String(), "path=/v1/tokens status=400"); n != 3 {
		t.Errorf("%d audit lines of refused tokens, want 3", n)
	}
}

// An error that is not the caller's is 500, logged, and audited where it writes.
func TestServeJSON(t *testing.T) {
	log := &diary{}
	h := serveJSON(hclog.New(&hclog.LoggerOptions{Output: log}), func(*http.Request) (any, error) { return nil, fs.ErrPermission })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/apply", nil))
	var e api.Error
	noError(t, json.Unmarshal(w.Body.Bytes(), &e))
	if w.Code != 500 || e.Status != 500 || e.Title != fs.ErrPermission.Error() || w.Header().Get("content-type") != "application/json" || w.Header().Get("x-content-type-options") != "nosniff" {
		t.Errorf("%d %+v %v", w.Code, e, w.Header())
	}
	if s := log.String(); !strings.Contains(s, "audit: who=") && !strings.Contains(s, "audit") || !strings.Contains(s, "status=500") || !strings.Contains(s, "local socket") {
		t.Errorf("log %q", s)
	}
}
