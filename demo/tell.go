package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// hosts of the demo, in the order of the story.
var hosts = []struct{ name, service, version string }{
	{"web", "web", "v1"}, {"api1", "api", "v1"}, {"api2", "api", "v2"},
}

// telling is what the chapters share.
type telling struct {
	*story
	t      *town.Town
	consul bool
	mesh   string // what is applied
}

func tell(ctx context.Context, keep, consul bool) (err error) {
	s := newStory()
	cache, _ := os.UserCacheDir()
	fmt.Println("kerege demo: three hosts call each other through captured, mutually authenticated Envoys")
	t, err := town.New("krdemo", "bin", consul)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := t.Close(); err == nil {
			err = closeErr
		}
	}()
	fmt.Printf("touches: network namespaces krdemo-* inside a namespace of its own, %s, %s; nothing else on this machine\n",
		t.Lab.Dir, filepath.Join(cache, "kerege"))
	d := &telling{story: s, t: t, consul: consul}
	for _, chapter := range []func(context.Context) error{
		d.arrive, d.call, d.split, d.killProgram, d.killHost, d.refuse, d.takeAway, d.rotate, d.serverGone, d.leave,
	} {
		if err := chapter(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		if keep && d.chapter == keepAfter {
			return d.stay(ctx)
		}
	}
	fmt.Printf("\nAll of it was so. %.0f s.\n", time.Since(s.began).Seconds())
	return nil
}

// keepAfter is the chapter after which KEEP=1 stays: everything is up.
const keepAfter = 3

// stay prints commands to try, and waits for Ctrl-C.
func (d *telling) stay(ctx context.Context) error {
	in := filepath.Join(d.t.Lab.Dir, "on")
	script := fmt.Sprintf(`#!/bin/sh
# on HOST COMMAND: runs a command as that host's program would (web, api1, api2), or as root on "server".
host=$1; shift
dir=%s/$host
export KEREGE_ADDR=unix://%s/run/server/api.sock KEREGE_AGENT_ADDR=unix://$dir/run/agent/api.sock PATH=%s:$PATH
run() { exec nsenter --net=/run/netns/krdemo-$host unshare -m sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' $dir/resolv.conf "$@"; }
case $1 in
  kerege|iptables-save|ip6tables-save) run "$@" ;;
  *) [ $host = server ] && run "$@" || run setpriv --reuid %d --regid %d --clear-groups "$@" ;;
esac
`, d.t.Lab.Dir, d.t.Server.Dir, filepath.Dir(d.t.Kerege), town.UIDApp, town.UIDApp)
	if err := os.WriteFile(in, []byte(script), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", in, err)
	}
	enter, err := lab.Nsenter()
	if err != nil {
		return err
	}
	fmt.Printf("\nIt stays up until Ctrl-C. In another terminal, as the same user:\n\n")
	fmt.Printf("  on() { %s %s \"$@\"; }\n", enter, in)
	for _, line := range [][2]string{
		{"on server kerege status", "3 hosts in the mesh, 3 proxies synced"},
		{"on web curl -s http://api.mesh:8080/hello", "answered by api, caller spiffe://demo.example/svc/web"},
		{"on api1 curl -s http://web.mesh:8080/", "403: no intention lets api call web"},
		{"on server kerege explain -from web -to api -path /checkout", "rule canary, 10 % v2, 90 % v1"},
		{"on web iptables-save -t nat", "chains KEREGE_*, for uid 2001 only"},
		{"on server kerege services api", "two instances, both in"},
	} {
		fmt.Printf("  %-62s # %s\n", line[0], line[1])
	}
	fmt.Printf("\n  the mesh: %s   then: on server kerege plan; on server kerege apply\n", d.t.MeshFile)
	<-ctx.Done()
	return errEnough
}

// errEnough ends what KEEP=1 kept up, as it was asked to.
var errEnough = errors.New("stopped when it was up")
