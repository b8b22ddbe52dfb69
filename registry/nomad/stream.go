package nomad

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/hashicorp/nomad/api"
)

// silence ends a stream: Nomad sends a sign of life every thirty seconds.
const silence = 75 * time.Second

// event is what is read of one. It says which service to read; what it says of
// the registration itself may already be past.
type event struct {
	Topic   string
	Payload struct {
		Service    *struct{ ServiceName, Namespace string }
		Allocation *allocation
	}
}

// stream hears of changes until ctx ends. Without it, the lists tell that
// something changed, but not what.
func (l *life) stream(ctx context.Context, sp *space) {
	for faults := 0; ctx.Err() == nil; faults++ {
		began := time.Now()
		err := l.listen(ctx, sp)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		was := sp.streaming
		if sp.streaming = false; was {
			l.pokeAll(sp)
		}
		l.mu.Unlock()
		if was && time.Since(began) > time.Minute {
			faults = 0
		}
		if faults == 0 {
			l.log.Warn("the event stream of nomad ended; changes are found by reading all services of the namespace", "namespace", sp.name, "error", err)
		}
		sleep(ctx, l.recovered(), pause(faults))
	}
}

// listen is one connection's life.
func (l *life) listen(ctx context.Context, sp *space) error {
	connection, stop := context.WithCancel(ctx)
	defer stop()
	quiet := time.AfterFunc(silence, stop)
	defer quiet.Stop()
	path := eventPath + "?" + url.Values{"topic": {"Service:*", "Allocation:*"}}.Encode()
	body, err := l.client.Raw().Response(path, (&api.QueryOptions{Namespace: sp.name}).WithContext(connection))
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxBody)
	for lines.Scan() {
		quiet.Reset(silence)
		l.mu.Lock()
		if !sp.streaming { // what changed before the first line was not told
			sp.streaming = true
			l.pokeAll(sp)
		}
		l.mu.Unlock()
		var got struct{ Events []event }
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			return fmt.Errorf("nomad said %.200q", lines.Text()) // a refusal comes as plain text
		}
		for _, e := range got.Events {
			l.hear(ctx, sp, e)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

func (l *life) hear(ctx context.Context, sp *space, e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := e.Payload.Service; s != nil && s.ServiceName != "" && (sp.name == "*" || s.Namespace == sp.name) {
		l.touch(ctx, sp, key{s.Namespace, s.ServiceName})
	}
	got := e.Payload.Allocation
	if got == nil || l.allocs[got.ID] == nil {
		return
	}
	a := l.allocs[got.ID]
	if got.ModifyIndex <= a.ModifyIndex {
		return
	}
	a.stale = a.stale || got.AllocModifyIndex > a.AllocModifyIndex
	a.ClientStatus, a.DesiredStatus, a.DeploymentStatus, a.ModifyIndex = got.ClientStatus, got.DesiredStatus, got.DeploymentStatus, got.ModifyIndex
	for k := range a.services {
		l.redo(k.name)
		if a.stale && l.services[k] != nil {
			l.services[k].poke()
		}
	}
}

// pokeAll has every service of a namespace read. l.mu is held.
func (l *life) pokeAll(sp *space) {
	for _, svc := range l.services {
		if svc.space == sp {
			svc.poke()
		}
	}
}
