package lab

import (
	"context"
	"fmt"
	"time"
)

// Until tries ok every few milliseconds until it returns nil, and fails with its
// last error after the given time.
func Until(ctx context.Context, limit time.Duration, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting %s for %s: %w", limit, what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
