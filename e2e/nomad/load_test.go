//go:build e2e

package nomad_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// report is what app load counted.
type report struct {
	Calls    int            `json:"calls"`
	Failed   int            `json:"failed"`
	ByCode   map[int]int    `json:"by_code"`
	Errors   map[string]int `json:"errors"`
	FirstBad string         `json:"first_failure"`
	LastBad  string         `json:"last_failure"`
	P99      string         `json:"p99"`
}

// load calls from an allocation's network namespace, as its application would.
func (m *meshed) load(alloc, url string, rate int, duration time.Duration) (r report) {
	m.t.Helper()
	text := sh(m.t, fmt.Sprintf("nsenter --net=/run/netns/%s app load -rate %d -for %s -url %s", alloc, rate, duration, url))
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		m.t.Fatalf("%v: %s", err, text)
	}
	return r
}

// calling calls as load does, until end is called: it says what came of the calls, and
// fails the test if one failed or there were fewer than said.
func (m *meshed) calling(alloc, url string) (end func(least int)) {
	m.t.Helper()
	cmd := exec.Command("nsenter", "--net=/run/netns/"+alloc, "/usr/local/bin/app", "load", "-rate", "50", "-for", "3m", "-url", url)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	m.t.Cleanup(stop)
	time.Sleep(time.Second) // calls before what they are to outlive
	return func(least int) {
		m.t.Helper()
		time.Sleep(time.Second) // and after it
		stop()
		var r report
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			m.t.Fatalf("%v: %s", err, &out)
		}
		m.t.Logf("called: %+v", r)
		if r.Failed != 0 || r.Calls < least || r.ByCode[200] != r.Calls {
			m.logs()
			m.t.Errorf("%+v", r)
		}
	}
}
