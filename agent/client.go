package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/api"
)

// Client asks a node's agent. Its errors are *api.Error as the agent said it, or
// api.ErrUnreachable.
type Client struct{ c *api.Client }

// NewClient is for the agent at address: "unix:///run/kerege/agent/api.sock".
func NewClient(address string) (*Client, error) {
	c, err := api.NewClient(api.Options{Address: address})
	if err != nil {
		return nil, err
	}
	return &Client{c}, nil
}

// Status is the node on one screen.
func (c *Client) Status(ctx context.Context) (out api.AgentStatus, err error) {
	return out, c.c.Get(ctx, "/v1/status", &out)
}

// Names are the mesh names that the node answers.
func (c *Client) Names(ctx context.Context) (out []api.AgentName, err error) {
	return out, c.c.Get(ctx, "/v1/names", &out)
}

// Join takes the node into the mesh of a token.
func (c *Client) Join(ctx context.Context, in api.AgentJoin) (out api.AgentJoined, err error) {
	return out, c.c.Post(ctx, "/v1/join", in, &out)
}

// Leave takes a service, or all and the node itself, out of the mesh.
func (c *Client) Leave(ctx context.Context, in api.AgentLeave) (out api.AgentLeft, err error) {
	return out, c.c.Post(ctx, "/v1/leave", in, &out)
}

// Ready says whether a service's proxy has accepted its listeners.
func (c *Client) Ready(ctx context.Context, service, workload string) (out api.AgentReady, err error) {
	return out, absent(c.c.Get(ctx, "/v1/ready?"+url.Values{"service": {service}, "workload": {workload}}.Encode(), &out))
}

// waitEvery is how often Wait asks.
const waitEvery = 100 * time.Millisecond

// Wait returns when a service's proxy is ready. When ctx ends first the error
// says what was last waited for.
func (c *Client) Wait(ctx context.Context, service, workload string) error {
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	last := "the agent does not answer"
	for {
		r, err := c.Ready(ctx, service, workload)
		switch {
		case err == nil && r.Ready:
			return nil
		case err == nil:
			last = r.Why
		case ctx.Err() == nil:
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the proxy of %s is not ready: %s: %w", key(service, workload), last, ctx.Err())
		case <-tick.C:
		}
	}
}

// Claim says that the caller stands before a workload, in the caller's own
// network namespace, and shows what proves it.
func (c *Client) Claim(ctx context.Context, service string, in api.AgentClaim) error {
	return absent(c.c.Post(ctx, "/v1/proxies/"+url.PathEscape(service)+"/claim", in, nil))
}

// absent adds what mends it to an error of who stands beside a workload, in a task
// with a file system of its own perhaps.
func absent(err error) error {
	if errors.Is(err, api.ErrUnreachable) {
		return fmt.Errorf("%w; `kerege agent` is to run on this node, and a task in a file system of its own needs the directory of this socket mounted into it", err)
	}
	return err
}

// Bootstrap is what a service's Envoy starts with, under limits that were found
// where it will run.
func (c *Client) Bootstrap(ctx context.Context, service, workload string, l envoy.Limits) (out api.Bootstrap, err error) {
	q := url.Values{"workload": {workload}, "heap": {strconv.FormatUint(l.Heap, 10)}, "connections": {strconv.FormatUint(uint64(l.Connections), 10)}}
	if l.Cgroup {
		q.Set("cgroup", "1")
	}
	return out, c.c.Get(ctx, "/v1/proxies/"+url.PathEscape(service)+"/bootstrap?"+q.Encode(), &out)
}

// CaptureConfig is what CaptureApply would capture, and what it would leave out.
// ssh is SSH_CONNECTION of who asks.
func (c *Client) CaptureConfig(ctx context.Context, ssh string) (out CaptureConfig, err error) {
	return out, c.c.Get(ctx, "/v1/capture/config?"+url.Values{"ssh": {ssh}}.Encode(), &out)
}

// CapturePlan is what CaptureApply would do now, and what that would mean. ssh is
// SSH_CONNECTION of who asks; accept is how many callers may be refused.
func (c *Client) CapturePlan(ctx context.Context, ssh string, accept int) (out *capture.Plan, err error) {
	return out, c.c.Get(ctx, "/v1/capture/plan?"+url.Values{"ssh": {ssh}, "accept": {strconv.Itoa(accept)}}.Encode(), &out)
}

// CaptureApply captures what is placed on the node.
func (c *Client) CaptureApply(ctx context.Context, in api.CaptureApply) (out CaptureApplied, err error) {
	return out, c.c.Post(ctx, "/v1/capture/apply", in, &out)
}

// CaptureConfirm makes an applied capture stay.
func (c *Client) CaptureConfirm(ctx context.Context) error {
	return c.c.Post(ctx, "/v1/capture/confirm", struct{}{}, nil)
}

// CaptureRemove takes the workloads out of the mesh, then out all rules.
func (c *Client) CaptureRemove(ctx context.Context, in api.CaptureRemove) (out CaptureRemoved, err error) {
	return out, c.c.Post(ctx, "/v1/capture/remove", in, &out)
}

// CaptureStatus is what is captured now.
func (c *Client) CaptureStatus(ctx context.Context) (out capture.Status, err error) {
	return out, c.c.Get(ctx, "/v1/capture/status", &out)
}

// CaptureVerify probes the capture.
func (c *Client) CaptureVerify(ctx context.Context) (out []capture.Probe, err error) {
	return out, c.c.Post(ctx, "/v1/capture/verify", struct{}{}, &out)
}
