package xdsim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Storm opens n clients at once and waits until ready returns nil of each. One
// that is refused with ResourceExhausted comes back after the server's hint,
// jittered, as an agent does. It returns the clients and how often any was
// refused; on an error those that are open are closed.
func Storm(ctx context.Context, n int, open func(i int) (*Client, error), ready func(*Client) error) ([]*Client, int, error) {
	clients, errs := make([]*Client, n), make([]error, n)
	var refused atomic.Int64
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for errs[i] = ctx.Err(); errs[i] == nil; errs[i] = ctx.Err() {
				c, err := open(i)
				if err != nil {
					errs[i] = err
					return
				}
				if err = ready(c); err == nil {
					clients[i] = c
					return
				}
				c.Close()
				if status.Code(c.Err()) != codes.ResourceExhausted {
					errs[i] = fmt.Errorf("client %d: %w", i, err)
					return
				}
				refused.Add(1)
				select {
				case <-time.After(hint(c.Err())/2 + rand.N(hint(c.Err()))):
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err == nil {
			continue
		}
		for _, c := range clients {
			if c != nil {
				c.Close()
			}
		}
		return nil, int(refused.Load()), fmt.Errorf("opening %d streams at once: %w", n, err)
	}
	return clients, int(refused.Load()), nil
}

// hint is when the server wants a refused client back; 1 s where it does not say.
func hint(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok && r.GetRetryDelay().AsDuration() > 0 {
			return r.GetRetryDelay().AsDuration()
		}
	}
	return time.Second
}
