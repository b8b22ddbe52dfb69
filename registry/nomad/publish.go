package nomad

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

// publish sends what changed until ctx ends. It alone sends, so that of one name
// nothing older follows something newer.
func (l *life) publish(ctx context.Context, out chan<- mesh.Part) {
	impatient := time.NewTimer(hold)
	defer impatient.Stop()
	for {
		select {
		case <-l.changed:
		case <-impatient.C:
			l.mu.Lock()
			for name := range l.names {
				l.dirty[name] = true
			}
			l.mu.Unlock()
		case <-ctx.Done():
			return
		}
		l.mu.Lock()
		names := slices.Sorted(maps.Keys(l.dirty))
		clear(l.dirty)
		l.mu.Unlock()
		for _, name := range names {
			if !l.send(ctx, name, out) {
				return
			}
		}
		if l.complete() {
			select {
			case out <- mesh.Part{Source: l.opt.Name}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// send composes one name over its namespaces and sends it when it is new. It
// reports whether to go on.
func (l *life) send(ctx context.Context, name string, out chan<- mesh.Part) bool {
	l.mu.Lock()
	list, whole := l.compose(name)
	before, spoke := l.said[name]
	l.mu.Unlock()
	if !whole || spoke && reflect.DeepEqual(list, before) || len(list) == 0 && len(before) == 0 && spoke {
		return true
	}
	select {
	case out <- mesh.Part{Source: l.opt.Name, Scope: name, Instances: list}:
	case <-ctx.Done():
		return false
	}
	l.mu.Lock()
	if len(list) == 0 && len(l.of(name)) == 0 {
		delete(l.said, name)
	} else {
		l.said[name] = list
	}
	l.mu.Unlock()
	return true
}

// of is the services of one name. l.mu is held.
func (l *life) of(name string) (list []*service) {
	for _, k := range l.names[name] {
		list = append(list, l.services[k])
	}
	return list
}

// compose is whole once the name has been read in every namespace that has it
// and each namespace has said whether it does, or has been silent for too long.
// l.mu is held.
func (l *life) compose(name string) (list []mesh.Instance, whole bool) {
	for _, sp := range l.spaces {
		if !sp.known && l.opt.Now().Sub(l.began) < hold {
			return nil, false
		}
	}
	for _, svc := range l.of(name) {
		if !svc.read {
			return nil, false
		}
		list = append(list, convert(svc.regs, l.allocs, l.nodes)...)
	}
	sortInstances(list)
	return list, true
}

// complete says, once, that all has been said.
func (l *life) complete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.marked || len(l.dirty) > 0 {
		return false
	}
	for _, sp := range l.spaces {
		if !sp.known {
			return false
		}
	}
	for _, svc := range l.services {
		if !svc.read {
			return false
		}
	}
	l.marked = true
	return true
}
