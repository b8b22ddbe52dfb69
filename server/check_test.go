package server

import (
	"os"
	"strings"
	"testing"

	"github.com/kerege/kerege/api"
)

// The trust domain of a mesh is the one that its CA was made for: files that say
// another, or leave it to a default that is another, are refused with both names,
// by apply and at the start, where the generation before goes on.
func TestTrustDomainIsForLife(t *testing.T) {
	r := newRig(t).start()
	for text, said := range map[string]string{
		strings.Replace(files, "test.example", "other.example", 1):                    `the trust domain is "other.example", and this server's CA signs for "test.example"`,
		strings.Replace(files, `mesh { trust_domain = "test.example" }`, "", 1):       `no mesh block says the trust domain, so that it would be "kerege.local"`,
		strings.Replace(files, `trust_domain = "test.example"`, `mtls = "strict"`, 1): `the trust domain is "kerege.local"`,
	} {
		r.write(text)
		a := local[api.Applied](r, "POST", "/v1/apply", "")
		if len(a.Diagnostics) != 1 || a.Generation != 1 || a.Diagnostics[0].Code != "KRG1090" || !strings.Contains(a.Diagnostics[0].Summary, said) ||
			!strings.Contains(a.Diagnostics[0].Detail, `write mesh { trust_domain = "test.example" }`) {
			t.Errorf("%s: %+v", said, a)
		}
		r.again()
		st := local[api.Status](r, "GET", "/v1/status", "")
		if st.TrustDomain != "test.example" || st.TrustDomainDefault || st.Generation.Number != 1 || st.Sources[0].State != "error" || !strings.Contains(st.Sources[0].Error, said) {
			t.Errorf("after a restart: %+v", st)
		}
	}
	noError(t, r.stop())
	noError(t, os.Remove(r.cfg.DataDir+"/mesh.json"))
	if err := r.open(); err == nil || !strings.Contains(err.Error(), `write mesh { trust_domain = "test.example" }`) || strings.Contains(err.Error(), "damaged") {
		t.Errorf("without a generation: %v", err)
	}
}

func TestDefaultTrustDomainIsSaid(t *testing.T) {
	r := newRig(t)
	r.write(strings.Replace(files, `mesh { trust_domain = "test.example" }`, "", 1))
	r.start()
	if st := local[api.Status](r, "GET", "/v1/status", ""); st.TrustDomain != "kerege.local" || !st.TrustDomainDefault {
		t.Errorf("status %+v", st)
	}
	if !strings.Contains(r.log.String(), "no mesh block says a trust domain") {
		t.Errorf("the log is silent: %s", r.log)
	}
	r.again()
	if strings.Count(r.log.String(), "no mesh block says a trust domain") != 1 {
		t.Error("it is said again when it cannot be changed any more")
	}
}
