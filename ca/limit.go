package ca

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kerege/kerege/mesh"
)

// ErrBusy says that too many wait for a signature already; to be tried again later.
var ErrBusy = errors.New("too many wait for a signature; try again in a few seconds")

const (
	maxWaiting     = 20_000 // of all nodes
	maxWaitingNode = 64     // of one
)

// Limiter lets so many pass a second, and takes the nodes that wait in turn: one
// that asks for a thousand delays another's first by one turn, not by a thousand.
type Limiter struct {
	gap   time.Duration // between two that pass
	burst int

	mu      sync.Mutex
	free    time.Time // when the next may pass
	ring    []string  // nodes that wait, in turn
	queues  map[string][]chan struct{}
	waiting int
	armed   bool
}

// NewLimiter lets rate pass a second, with a burst of a tenth of a second.
func NewLimiter(rate int) *Limiter {
	return &Limiter{gap: time.Second / time.Duration(rate), burst: max(1, rate/10), queues: map[string][]chan struct{}{}}
}

// Wait returns when it is node's turn, ErrBusy at once when too many wait, or
// the context's error.
func (l *Limiter) Wait(ctx context.Context, node string) error {
	turn, err := l.join(node)
	if err != nil || turn == nil {
		return err
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		l.leave(node, turn)
		return ctx.Err()
	}
}

// join passes at once (nil), or queues.
func (l *Limiter) join(node string) (chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == 0 && l.take() {
		return nil, nil
	}
	if l.waiting >= maxWaiting || len(l.queues[node]) >= maxWaitingNode {
		return nil, ErrBusy
	}
	turn := make(chan struct{})
	if len(l.queues[node]) == 0 {
		l.ring = append(l.ring, node)
	}
	l.queues[node] = append(l.queues[node], turn)
	l.waiting++
	l.arm()
	return turn, nil
}

// take uses up one pass, if there is one now.
func (l *Limiter) take() bool {
	now := time.Now()
	if earliest := now.Add(-time.Duration(l.burst-1) * l.gap); l.free.Before(earliest) {
		l.free = earliest
	}
	if l.free.After(now) {
		return false
	}
	l.free = l.free.Add(l.gap)
	return true
}

func (l *Limiter) arm() {
	if l.armed || l.waiting == 0 {
		return
	}
	l.armed = true
	time.AfterFunc(max(time.Until(l.free), time.Microsecond), l.serve)
}

func (l *Limiter) serve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	for l.waiting > 0 && l.take() {
		node := l.ring[0]
		queue := l.queues[node]
		close(queue[0])
		l.waiting--
		l.ring = l.ring[1:]
		if l.queues[node] = queue[1:]; len(queue) > 1 {
			l.ring = append(l.ring, node)
		} else {
			delete(l.queues, node)
		}
	}
	l.arm()
}

// leave gives up a place in the queue.
func (l *Limiter) leave(node string, turn chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.queues[node]
	for i, t := range queue {
		if t != turn {
			continue
		}
		l.waiting--
		if queue = append(queue[:i:i], queue[i+1:]...); len(queue) > 0 {
			l.queues[node] = queue
			return
		}
		delete(l.queues, node)
		for j, n := range l.ring {
			if n == node {
				l.ring = append(l.ring[:j:j], l.ring[j+1:]...)
				return
			}
		}
	}
}

// SignFor is Sign on behalf of a node, no faster than the configured rate and
// with the nodes taken in turn. It returns ErrBusy when too many wait.
func (a *Authority) SignFor(ctx context.Context, node string, csrDER []byte, id mesh.Identity, ttl time.Duration, marks ...string) ([][]byte, error) {
	if err := a.limiter.Wait(ctx, node); err != nil {
		return nil, err
	}
	return a.Sign(csrDER, id, ttl, marks...)
}
