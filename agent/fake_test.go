package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/kerege/kerege/agent/capture"
)

// fakeCapture is a capture that works, or not.
type fakeCapture struct {
	diary
	st     capture.Status
	broken string // a probe's complaint
	stop   string // the plan's
	lost   string // why a workload is not captured
	known  capture.Known
}

func (f *fakeCapture) Run(ctx context.Context) error {
	f.note("run")
	<-ctx.Done()
	f.note("stop")
	return nil
}

func (f *fakeCapture) Apply(_ context.Context, c capture.Config, undo time.Duration) (capture.Applied, error) {
	f.note("apply")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st.Applied, f.st.Config, f.st.Deadline = true, &c, time.Now().Add(undo)
	return capture.Applied{Changed: true, Deadline: f.st.Deadline}, nil
}

func (f *fakeCapture) Confirm(context.Context) error {
	f.note("confirm")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st.Deadline = time.Time{}
	return nil
}

func (f *fakeCapture) Remove(context.Context) (bool, error) {
	f.note("remove")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st = capture.Status{}
	return true, nil
}

func (f *fakeCapture) SetDNS(_ context.Context, on bool) error {
	f.note(fmt.Sprint("dns=", on))
	return nil
}

func (f *fakeCapture) Plan(_ context.Context, c capture.Config, known capture.Known) (*capture.Plan, error) {
	out := &capture.Plan{}
	for _, w := range c.Workloads {
		out.Workloads = append(out.Workloads, capture.PlannedWorkload{Name: w.Name})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = known
	if f.stop != "" {
		out.Stops = []capture.Stop{{Workload: "web", What: f.stop, Mend: "bring them in"}}
	}
	return out, nil
}

func (f *fakeCapture) Overtaken() int { return 0 }

func (f *fakeCapture) Brief() (applied, settled bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.Applied, f.st.Applied
}

func (f *fakeCapture) Lost(workload string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost == "" && !covers(f.st, workload) {
		return "nothing is captured on its host any more"
	}
	return f.lost
}

func (f *fakeCapture) Repairs() int64 { return 3 }

func (f *fakeCapture) SetDown(context.Context, string, bool) error { return nil }

func (f *fakeCapture) Status(context.Context) (capture.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st, nil
}

func (f *fakeCapture) Verify(context.Context) ([]capture.Probe, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []capture.Probe{{What: "tables", OK: true}, {Workload: "web", What: "outbound", OK: f.broken == "", Why: f.broken}}, nil
}
