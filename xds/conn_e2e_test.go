//go:build e2e

package xds

import (
	"context"
	"net"
)

// oneConn gives a transport one connection and no other.
func oneConn(c net.Conn) func(context.Context, string, string) (net.Conn, error) {
	used := false
	return func(context.Context, string, string) (net.Conn, error) {
		if used {
			return nil, net.ErrClosed
		}
		used = true
		return c, nil
	}
}
