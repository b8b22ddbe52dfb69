package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/api"
)

// devEnvoys runs one Envoy for each instance.
type devEnvoys struct {
	session *devSession
	fail    context.CancelCauseFunc
	running map[string]func() // each stops one
}

func newDevEnvoys(d *devSession, fail context.CancelCauseFunc) *devEnvoys {
	return &devEnvoys{session: d, fail: fail, running: map[string]func(){}}
}

// start runs an instance's Envoy, unless it does already.
func (e *devEnvoys) start(ctx context.Context, service, instance string) error {
	key := service + "/" + instance
	if e.running[key] != nil {
		return nil
	}
	d := e.session
	boot, err := e.bootstrap(ctx, service, instance)
	if err != nil {
		return fmt.Errorf("starting the Envoy of %s: %w", key, err)
	}
	out, name, err := d.envoyLog(service + "." + instance)
	if err != nil {
		return err
	}
	launcher := envoy.NewLauncher(envoy.Options{
		Path: d.envoy, Dir: boot.Dir, Bootstrap: boot.Bootstrap, Concurrency: 1, Drain: time.Second,
		Output: out, Log: d.log.Named("envoy").With("instance", key),
	})
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		defer out.Close()
		if err := launcher.Run(running); err != nil {
			e.fail(fmt.Errorf("%w\nIt is the Envoy of %s. The end of its log:\n%s", err, key, lastLines(name)))
		}
	})
	e.running[key] = func() { cancel(); wg.Wait() }
	return nil
}

// bootstrap waits until the agent has one to give.
func (e *devEnvoys) bootstrap(ctx context.Context, service, instance string) (boot api.Bootstrap, err error) {
	limits, err := envoy.Detect()
	if err != nil {
		return boot, err
	}
	client, err := agent.NewClient(e.session.agentAddress())
	if err != nil {
		return boot, err
	}
	wait, cancel := context.WithTimeout(ctx, devSettles)
	defer cancel()
	for {
		if boot, err = client.Bootstrap(wait, service, instance, limits); err == nil {
			return boot, nil
		}
		select {
		case <-ctx.Done():
			return boot, context.Cause(ctx)
		case <-wait.Done():
			return boot, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (e *devEnvoys) stop(key string) {
	if stop := e.running[key]; stop != nil {
		stop()
		delete(e.running, key)
	}
}

func (e *devEnvoys) stopAll() {
	var wg sync.WaitGroup
	for _, stop := range e.running {
		wg.Go(stop)
	}
	wg.Wait()
	clear(e.running)
}

// logs is where Envoys write what they have to say.
func (d *devSession) logs() string { return filepath.Join(d.data, "log") }

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// envoyLog opens an Envoy's log: a file, or the terminal of who wants to see more.
func (d *devSession) envoyLog(name string) (w io.WriteCloser, path string, err error) {
	if d.log.GetLevel() <= hclog.Info {
		return keepOpen{d.call.err}, "", nil
	}
	if err := os.MkdirAll(d.logs(), 0o700); err != nil {
		return nil, "", fmt.Errorf("opening an Envoy's log: %w", err)
	}
	path = filepath.Join(d.logs(), name+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("opening an Envoy's log: %w", err)
	}
	return f, path, nil
}

// lastLines is the end of a log, which may be gone a moment later.
func lastLines(path string) string {
	if path == "" {
		return "see above"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
