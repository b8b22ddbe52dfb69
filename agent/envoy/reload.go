package envoy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// How long a new Envoy may take until it serves, and each look at it before.
const (
	liveWithin  = time.Minute
	checkWithin = 20 * time.Second
)

// request asks for a reload; the answer goes to result, which has room for it.
type request struct{ result chan error }

// errStopping is the answer of a launcher that is about to end.
var errStopping = errors.New("reloading Envoy: the launcher is stopping")

// Reload starts a new Envoy with what Renew gives, lets it take over the listening
// sockets, and returns when it serves; the one before ends when its last caller
// has left it, after Options.Drain at the latest. An error means that the one
// before serves on. Who asks while an Envoy is still on its way out waits for its
// end; those who wait at the same time get the same new Envoy.
func (l *Launcher) Reload(ctx context.Context) error {
	if l.o.Renew == nil {
		return errors.New("reloading Envoy: this launcher does not reload")
	}
	r := request{make(chan error, 1)}
	select {
	case l.requests <- r:
	case <-l.over:
		return errStopping
	case <-ctx.Done():
		return fmt.Errorf("reloading Envoy: waiting for the one before to be ready, or to end: %w", ctx.Err())
	}
	select {
	case err := <-r.result:
		return err
	case <-l.over:
		return errStopping
	case <-ctx.Done():
		return fmt.Errorf("reloading Envoy: waiting for the new one: %w", ctx.Err())
	}
}

// gather is everybody who asks now.
func (l *Launcher) gather(first request) []request {
	all := []request{first}
	for {
		select {
		case r := <-l.requests:
			all = append(all, r)
		default:
			return all
		}
	}
}

// succeed starts an Envoy that takes over from p, and returns it when it serves.
// Where it does not come to that, p goes on.
func (l *Launcher) succeed(ctx context.Context, p *process) (*process, error) {
	next, err := l.successor(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("reloading Envoy: the one before serves on: %w", err)
	}
	return next, nil
}

func (l *Launcher) successor(ctx context.Context, p *process) (*process, error) {
	if l.region == nil {
		return nil, l.noRegion
	}
	fresh, err := l.o.Renew(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.fits(ctx, fresh); err != nil {
		return nil, err
	}
	before := l.running
	if err := l.writeBootstrap(ctx, fresh.Bootstrap); err != nil {
		return nil, err
	}
	next, err := begin(fresh.Path, l.o.Dir, l.args(p.epoch+1), p.epoch+1, l.o.Output)
	if err == nil {
		if err = l.awaitLive(ctx, next, p); err == nil {
			l.running = fresh
			l.o.Log.Info("a new Envoy has taken over", "epoch", next.epoch, "pid", next.pid())
			return next, nil
		}
		l.complain(next.kill())
		l.complain(l.region.settle())
		if _, gone := l.admin.info(context.WithoutCancel(ctx)); gone != nil {
			l.o.Log.Warn("the Envoy that serves on has given up its admin socket: until a reload works it is stopped without a drain")
		}
	}
	l.complain(l.writeBootstrap(context.WithoutCancel(ctx), before.Bootstrap)) // for when the one before dies
	return nil, err
}

// fits looks at a new Envoy and its bootstrap before anything is asked of the
// running one, which gives up its admin socket as soon as another one starts.
func (l *Launcher) fits(ctx context.Context, fresh Fresh) error {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	if err := Check(ctx, fresh.Path); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, fresh.Path, "--hot-restart-version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("asking %s how it takes over: %w: %s", fresh.Path, err, lastLine(string(out)))
	}
	mine := lastLine(string(out)) // after what it finds to warn of
	if running, err := l.admin.info(ctx); err == nil && running.HotRestart != mine {
		return fmt.Errorf("%s cannot take over from the Envoy that runs (%s, and that speaks %s): restart it instead", fresh.Path, mine, running.HotRestart)
	}
	path := l.bootstrapFile() + ".next"
	if err := os.WriteFile(path, fresh.Bootstrap, 0o600); err != nil {
		return fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	defer os.Remove(path)
	cmd := exec.CommandContext(ctx, fresh.Path, "--mode", "validate", "-c", path, "--log-level", "error")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("checking the new bootstrap with %s: %w: %s", fresh.Path, err, lastLine(string(out)))
	}
	return nil
}

// lastLine is where a program that fails says why.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	if at := strings.LastIndexByte(text, '\n'); at >= 0 {
		text = text[at+1:]
	}
	return text[:min(len(text), 400)]
}

// awaitLive returns when next serves: it has the listening sockets and p accepts
// no more. Until then p can go on; from then on it cannot.
func (l *Launcher) awaitLive(ctx context.Context, next, p *process) error {
	timer := time.NewTimer(liveWithin)
	defer timer.Stop()
	for {
		i, err := l.admin.info(ctx)
		if err == nil && i.Options.Epoch == next.epoch && i.State == "LIVE" {
			return nil
		}
		select {
		case <-next.done:
			return fmt.Errorf("the new one died before it served: %w", next.err)
		case <-p.done:
			return fmt.Errorf("the one before died meanwhile: %w", p.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return fmt.Errorf("the new one did not serve within %s", liveWithin)
		case <-time.After(pollEvery):
		}
	}
}

// info is what Envoy says of itself.
type info struct {
	State      string `json:"state"` // LIVE: its workers run
	HotRestart string `json:"hot_restart_version"`
	Options    struct {
		Epoch int `json:"restart_epoch"`
	} `json:"command_line_options"`
}

func (a *Admin) info(ctx context.Context) (out info, err error) {
	body, err := a.Get(ctx, "/server_info")
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("reading what Envoy says of itself: %w", err)
	}
	return out, nil
}
