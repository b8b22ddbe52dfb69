package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// controlSocket is where a launcher is asked to reload: who connects asks, and
// reads what came of it.
const controlSocket = "ctl.sock"

const reloaded = "reloaded\n"

// prepare makes reloads possible, until stop.
func (l *Launcher) prepare() (stop func(), err error) {
	if l.region, err = openRegion(l.o.Dir, l.shm); err != nil {
		l.noRegion = err
		l.o.Log.Warn("Envoy cannot be reloaded here, only restarted", "because", err)
	}
	path := filepath.Join(l.o.Dir, controlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	socket, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for reloads: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		socket.Close()
		return nil, fmt.Errorf("closing a socket to others: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				said := reloaded
				if err := l.Reload(ctx); err != nil {
					l.o.Log.Error("no reload", "error", err)
					said = err.Error()
				}
				_, _ = io.WriteString(c, said) // who asked may have gone
			})
		}
	})
	return func() {
		socket.Close()
		cancel()
		wg.Wait()
		if l.region != nil {
			l.region.close()
		}
	}, nil
}

// Ask has the launcher of a proxy's folder reload, and returns what Reload does.
func Ask(ctx context.Context, dir string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, controlSocket))
	if err != nil {
		return fmt.Errorf("asking for a reload: no launcher runs there: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	text, err := io.ReadAll(io.LimitReader(c, 64<<10))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("asking for a reload: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("asking for a reload: %w", err)
	case string(text) == reloaded:
		return nil
	case len(text) == 0:
		return errors.New("asking for a reload: the launcher ended before it answered")
	}
	return errors.New(strings.TrimSpace(string(text)))
}
