//go:build e2e

package nomad_test

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// canaryRules are what a team adds to shift calls to a deployment's canary.
const canaryRules = `
service "api" {
  subset "canary" { filter = "canary in Service.Tags" }
  subset "stable" { filter = "canary not in Service.Tags" }
}

route "api" {
  rule "canary" {
    to "api.canary" {
      weight   = 10
      if_empty = "rest"
    }
    to "api.stable" {}
  }
}
`

// canary deploys a new version of a job that is part of api, and counts who answers.
func (m *meshed) canary(web string) {
	const rules = "/etc/kerege.d/mesh/canary.hcl"
	if err := os.WriteFile(rules, []byte(canaryRules), 0o644); err != nil {
		m.t.Fatal(err)
	}
	sh(m.t, "kerege apply")
	version := func(v string) func(string) string {
		return func(s string) string {
			s = strings.Replace(s, "count = 2", `count = 1
    update {
      canary            = 1
      min_healthy_time  = "1s"
      healthy_deadline  = "50s"
      progress_deadline = "1m"
    }`, 1)
			s = strings.Replace(s, "      tags ", "      canary_tags  = [\"kerege-protocol=http\", \"canary\"]\n      tags ", 1)
			return strings.Replace(s, `    task "api" {`, `    task "api" {
      env { VERSION = "`+v+`" }`, 1)
		}
	}
	deployed := func(healthy int, status string) {
		m.t.Helper()
		m.until(60*time.Second, "a deployment", func() (bool, string) {
			d, _, err := m.a.Jobs().LatestDeployment("api-4", nil)
			if err != nil || d == nil || d.TaskGroups["api"] == nil {
				return false, fmt.Sprint(d, err)
			}
			return d.TaskGroups["api"].HealthyAllocs >= healthy && d.Status == status, fmt.Sprint(d.Status, d.TaskGroups["api"].HealthyAllocs)
		})
	}
	m.another("api-4", version("1"))
	deployed(1, "successful")
	stable := m.allocs("api-4", "api")
	m.another("api-4", version("2"))
	deployed(1, "running")
	m.has("api", 4)
	counted := func(rate int, duration time.Duration) (canary, calls int) {
		before := m.served("api-4", stable...)
		r := m.load(web, "http://api.mesh:8080/", rate, duration)
		if r.Failed != 0 || r.ByCode[200] != r.Calls {
			m.t.Fatalf("%+v", r)
		}
		return m.served("api-4", stable...) - before, r.Calls
	}
	m.until(30*time.Second, "calls to the canary", func() (bool, string) { n, of := counted(50, time.Second); return n > 0, fmt.Sprint(n, of) })
	n, of := counted(100, 10*time.Second)
	m.t.Logf("of %d calls, %d went to the canary: %.1f %%, and 10 are asked for", of, n, 100*float64(n)/float64(of))
	if share := float64(n) / float64(of); share < 0.06 || share > 0.14 { // 4 standard deviations of a thousand calls
		m.t.Errorf("the canary's share is %.3f", share)
	}
	d, _, err := m.a.Jobs().LatestDeployment("api-4", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	end := m.calling(web, "http://api.mesh:8080/")
	if _, _, err := m.a.Deployments().PromoteAll(d.ID, nil); err != nil {
		m.t.Error(err)
	}
	m.until(60*time.Second, "the end of the version before", func() (bool, string) {
		left := m.allocs("api-4", "api")
		return len(left) == 1 && left[0] != stable[0], fmt.Sprint(left)
	})
	end(300)
	sh(m.t, "rm "+rules+" && kerege apply && nomad job stop -detach api-4")
	m.has("api", 2)
}
