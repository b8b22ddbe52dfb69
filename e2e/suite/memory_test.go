//go:build e2e

package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// rest is the memory of each part, the largest where there are several.
func (u *usersTable) rest(context.Context) error {
	server, err := rss(u.w.ServerProc.Pid())
	if err != nil {
		return err
	}
	var agent, standIn, envoy memory
	for _, h := range u.w.Hosts {
		a, err1 := rss(h.Agent.Pid())
		s, err2 := childRSS(h.Agent.Pid(), "")
		e, err3 := childRSS(h.Envoy.Pid(), "envoy")
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		agent, standIn, envoy = agent.most(a), standIn.most(s), envoy.most(e)
	}
	u.add(server.all <= 60 && agent.all <= 30 && envoy.all <= 67, "at rest: server, agent, Envoy", "112, 110, 67 MiB", "≤ 60, ≤ 30, 67 MiB",
		"%d, %d, %d MiB; of it private, the rest being the program's file: %d, %d, %d; the agent's stand-in %d, private %d", server.all, agent.all, envoy.all, server.private, agent.private, envoy.private, standIn.all, standIn.private)
	return nil
}

// memory is what of a process is resident, in MiB.
type memory struct{ all, private int }

func (m memory) most(o memory) memory { return memory{max(m.all, o.all), max(m.private, o.private)} }

func rss(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for label, to := range map[string]*int{"VmRSS:": &m.all, "RssAnon:": &m.private} {
		var kib int
		_, rest, _ := strings.Cut(string(text), label)
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return m, fmt.Errorf("reading %s of process %d: %w", label, pid, err)
		}
		*to = (kib + 1<<9) >> 10
	}
	return m, nil
}

// childRSS is that of the first child whose name begins so.
func childRSS(pid int, name string) (m memory, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return m, err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(text)) {
			comm, err := os.ReadFile("/proc/" + child + "/comm")
			id, err2 := strconv.Atoi(child)
			if err == nil && err2 == nil && strings.HasPrefix(string(comm), name) {
				return rss(id)
			}
		}
	}
	return m, fmt.Errorf("process %d has no child %q", pid, name)
}
