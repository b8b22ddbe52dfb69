package identity

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// strict signs for an allocation only when it shows what it should, and for
// others only when they show nothing.
type strict struct{ *authority }

func (s strict) Sign(ctx context.Context, r *keregev1.SignRequest, opts ...grpc.CallOption) (*keregev1.SignResponse, error) {
	want := ""
	if r.GetWorkload() != "" {
		want = "evidence of " + r.GetWorkload()
	}
	if r.GetEvidence() != want {
		s.authority.mu.Lock()
		s.authority.asked["refused"] = append(s.authority.asked["refused"], time.Now())
		s.authority.mu.Unlock()
		return nil, errors.New("shown: " + r.GetEvidence())
	}
	return s.authority.Sign(ctx, r, opts...)
}

func TestWhatAWorkloadShowsGoesWithItsRequestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newAuthority(t, time.Hour), newPlace(t)
		m := p.joined(t, a, nil)
		job, shown := Workload{Service: "job", Workload: "a1"}, ""
		m.opt.Evidence = func(w Workload) string {
			if w == job {
				return shown
			}
			return "evidence of another"
		}
		m.Want(web, job)
		defer run(t, m, strict{a})()
		must(t, m.Wait(t.Context(), web))
		time.Sleep(10 * time.Minute) // refused again and again, ever more slowly
		if m.Get(job) != nil || a.count("refused") < 5 {
			t.Fatalf("%v after %d refusals", m.Get(job), a.count("refused"))
		}
		shown = "evidence of a1"
		begin := time.Now()
		m.Retry(job)
		must(t, m.Wait(t.Context(), job))
		if took := time.Since(begin); took > time.Second {
			t.Errorf("new evidence waited %s", took)
		}
	})
}
