//go:build e2e

package dev

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

const nobody = 65534

func service(name string, instances ...string) string {
	return fmt.Sprintf("service %q {\n  protocol = \"http\"\n%s}\n", name, strings.Join(instances, ""))
}

func instance(name string, port int) string {
	return fmt.Sprintf("  instance %q {\n    address = \"127.0.0.1\"\n    port    = %d\n    meta    = { version = %q }\n  }\n", name, port, name)
}

func split(v2 int) string {
	return fmt.Sprintf("route \"api\" {\n  rule \"canary\" {\n    to \"api.v1\" { weight = %d }\n    to \"api.v2\" { weight = %d }\n  }\n}\n", 100-v2, v2)
}

// TestFilesOfOnesOwn is a working day with kerege dev: calls, a split, a refusal,
// an edit, a mistake, a service more and one less, and Ctrl-C; as root, and as a
// user who may do nothing.
func TestFilesOfOnesOwn(t *testing.T) {
	p := build(t)
	for _, user := range []struct {
		name string
		run  []string
	}{
		{"root", nil},
		{"nobody", []string{"setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups"}},
	} {
		t.Run(user.name, func(t *testing.T) {
			if user.run == nil && os.Getuid() != 0 {
				t.Log("not root: this is the ordinary user's run")
			}
			if user.run != nil {
				if os.Getuid() != 0 {
					t.Skip("only root can become another user; the other run was an ordinary user's")
				}
				if _, err := exec.LookPath("setpriv"); err != nil {
					t.Fatal(err)
				}
			}
			workingDay(t, p, user.run)
		})
	}
}

func workingDay(t *testing.T, p programs, as []string) {
	dir, err := os.MkdirTemp(p.dir, "mesh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("services.hcl", "mesh {\n  trust_domain = \"day.example\"\n}\n"+service("web", instance("web", app(t, "web")))+service("shop", instance("shop", app(t, "shop"))))
	write("api.hcl", service("api", instance("v1", app(t, "v1")), instance("v2", app(t, "v2")),
		"  subset \"v1\" { filter = \"Service.Meta.version == v1\" }\n  subset \"v2\" { filter = \"Service.Meta.version == v2\" }\n")+
		"intention \"api\" {\n  allow { from = [\"web\"] }\n}\n")
	write("route.hcl", split(10))
	s := start(t, p, append(as, p.kerege, "dev", "-json", dir)...)
	r := s.report("the start", func(r report) bool { return true })
	web, shop := r.at(t, "web", "api"), r.at(t, "shop", "api")

	seen := map[string]int{}
	for range 300 {
		status, text := get(web)
		seen[fmt.Sprint(status, " ", text)]++
	}
	const who = " URI=spiffe://day.example/svc/web"
	if v2 := seen["200 v2"+who]; v2 < 10 || v2 > 55 || v2+seen["200 v1"+who] != 300 {
		t.Errorf("of 300 calls by web: %v", seen)
	}
	if status, text := get(shop); status != 403 || !strings.Contains(text, "spiffe://day.example/svc/shop") {
		t.Errorf("shop was answered %d %s", status, text)
	}

	// From here on web calls without a pause, and none of its calls may fail.
	stop := calling(t, web)
	write("route.hcl", split(100))
	r = s.report("the edit", func(r report) bool { return r.Generation == 2 })
	for range 20 {
		if status, text := get(web); status != 200 || text != "v2"+who {
			t.Errorf("after the edit: %d %s", status, text)
		}
	}

	write("route.hcl", split(0)+"rout \"api\" {}\n")
	until(t, "the mistake is shown", func() bool { return strings.Contains(s.said(), "Refused; generation 2 goes on.") })
	if said := s.said(); !strings.Contains(said, "route.hcl:7") || strings.Contains(said, "[ERROR]") {
		t.Errorf("of the mistake it is said: %s", said)
	}
	if status, text := get(web); status != 200 || text != "v2"+who {
		t.Errorf("after the mistake: %d %s", status, text)
	}

	write("route.hcl", split(100))
	until(t, "that it is mended is said", func() bool { return strings.Contains(s.said(), "again those of generation 2") })

	write("route.hcl", split(0))
	write("more.hcl", service("stock", instance("one", app(t, "stock")))+"intention \"stock\" {\n  allow { from = [\"web\", \"api\"] }\n}\n")
	r = s.report("a service more", func(r report) bool { return len(r.Instances) == 5 })
	if again := r.at(t, "web", "api"); again != web {
		t.Errorf("web called api at %s, and now at %s", web, again)
	}
	for _, from := range []string{"web", "api"} {
		if status, text := get(r.at(t, from, "stock")); status != 200 || text != "stock URI=spiffe://day.example/svc/"+from {
			t.Errorf("%s calls the new service: %d %s", from, status, text)
		}
	}
	if err := os.Remove(filepath.Join(dir, "more.hcl")); err != nil {
		t.Fatal(err)
	}
	r = s.report("a service less", func(r report) bool { return len(r.Instances) == 4 })
	if status, text := get(web); status != 200 || text != "v1"+who {
		t.Errorf("at the end: %d %s", status, text)
	}
	stop()
	s.interrupt(r)
	if status, _ := get(web); status != 0 {
		t.Errorf("%s answers after the end: %d", web, status)
	}
}

// calling calls until it is stopped, and fails the test with each failed call.
func calling(t *testing.T, url string) (stop func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		n, bad := 0, 0
		for !done.Load() {
			n++
			if status, text := get(url); status != 200 {
				if bad++; bad < 5 {
					t.Errorf("call %d failed meanwhile: %d %s", n, status, text)
				}
			}
		}
		t.Logf("%d calls meanwhile, %d failed", n, bad)
	})
	stop = sync.OnceFunc(func() { done.Store(true); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// TestSample is what a stranger types first; and -data is there the next time.
func TestSample(t *testing.T) {
	p := build(t)
	data := filepath.Join(p.dir, "data")
	for _, when := range []string{"the first time", "the second time"} {
		s := start(t, p, p.kerege, "dev", "-json", "-data", data)
		r := s.report(when, func(report) bool { return true })
		if r.Data != data || len(r.Instances) != 3 {
			t.Errorf("%s: %+v", when, r)
		}
		if status, text := get(r.at(t, "web", "api")); status != 200 || !strings.Contains(text, "hello spiffe://dev.example/svc/web, this is api v") {
			t.Errorf("%s: %d %s", when, status, text)
		}
		for _, line := range [][]string{{"status"}, {"explain", "-from", "web", "-to", "api"}, {"services"}, {"plan"}} {
			cmd := exec.Command(p.kerege, line...)
			cmd.Env = append(os.Environ(), "KEREGE_ADDR="+r.Server)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: kerege %v: %v: %s", when, line, err, out)
			}
		}
		s.interrupt(r)
		if said := s.said(); said != "" {
			t.Errorf("%s: it is not quiet: %s", when, said)
		}
	}
}

// TestKilled is kerege dev ended by SIGKILL: nothing of it stays, and where its
// guard is killed too, the next run removes what is left.
func TestKilled(t *testing.T) {
	p := build(t)
	begin := func() (*session, report, string) {
		s := start(t, p, p.kerege, "dev", "-json")
		r := s.report("a sample", func(report) bool { return true })
		return s, r, strings.TrimSuffix(strings.TrimPrefix(r.Server, "unix://"), "/server/api.sock")
	}
	kill := func(s *session) {
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.exited <- <-s.exited
	}
	s, r, run := begin()
	if n := processesOf(t, run); n != len(r.Instances) {
		t.Fatalf("%d Envoys run for %d instances", n, len(r.Instances))
	}
	kill(s)
	until(t, "its Envoys and its folder are gone", func() bool {
		_, err := os.Stat(run)
		return processesOf(t, run) == 0 && os.IsNotExist(err)
	})

	s, _, run = begin()
	guards, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range guards {
		text, _ := os.ReadFile(path)
		var pid, parent int
		var name, state string
		if _, err := fmt.Sscan(string(text), &pid, &name, &state, &parent); err != nil || parent != s.cmd.Process.Pid {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if strings.Contains(string(line), "dev-guard") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill(s)
	if _, err := os.Stat(run); err != nil { // the Envoys themselves end with kerege
		t.Fatalf("the guard was not found: this run was cleaned up after: %v", err)
	}
	s, r, _ = begin()
	if n := processesOf(t, run); n != 0 {
		t.Errorf("%d Envoys of the run before are left", n)
	}
	if _, err := os.Stat(run); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", run, err)
	}
	if !strings.Contains(s.said(), run+" is removed") {
		t.Errorf("it does not say so: %s", s.said())
	}
	s.interrupt(r)
}
