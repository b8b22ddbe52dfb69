package xds

import (
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"

	"github.com/kerege/kerege/plan"
)

// Headers between sidecars. They are taken away from what applications send and
// from what they get.
const (
	// headerUnreached: the answer is the sidecar's own, the application never saw
	// the request. Safe to try elsewhere, whatever the method.
	headerUnreached = "x-kerege-unreached"
	// headerUnanswered: the application may have seen the request, and its
	// connection ended before an answer came.
	headerUnanswered = "x-kerege-unanswered"
	// headerProtocol: what the calling application spoke, where nobody has said
	// what the service speaks.
	headerProtocol = "x-kerege-protocol"
)

// Methods that may be tried again although the application may have seen them:
// by default those that change nothing, and where a retry block names its
// conditions also those that do no more at the second time.
var (
	safeMethods       = []string{"GET", "HEAD", "OPTIONS"}
	idempotentMethods = []string{"DELETE", "GET", "HEAD", "OPTIONS", "PUT"}
)

// hostPicks is how often a retry asks for another host before it takes one that
// it has tried. With few hosts the dead one is picked again and again, for no
// call of its is under way: of two, by three picks of four.
const hostPicks = 30

// unreached are the conditions under which no application has seen the request.
func unreached(condition string) bool {
	return condition == "connect-failure" || condition == "refused-stream"
}

// retries splits a rule's retries in two: those for some methods and those for
// the others. They differ only where a condition may mean that the application
// was reached; where they don't, there are no such methods.
func (w *writer) retries(r plan.Retry) (some []string, theirs, others *routev3.RetryPolicy) {
	if r.Times == 0 || len(r.On) == 0 {
		return nil, nil, nil
	}
	theirs = w.retry(r, r.On)
	fit := slices.DeleteFunc(slices.Clone(r.On), func(c string) bool { return !unreached(c) })
	if r.AnyMethod || len(fit) == len(r.On) {
		return nil, nil, theirs
	}
	if len(fit) > 0 {
		others = w.retry(r, fit)
	}
	if r.Safe {
		return safeMethods, theirs, others
	}
	return idempotentMethods, theirs, others
}

func (w *writer) retry(r plan.Retry, on []string) *routev3.RetryPolicy {
	var words []string
	var codes []uint32
	var headers []*routev3.HeaderMatcher
	for _, c := range on {
		if code, err := strconv.ParseUint(c, 10, 16); err == nil {
			codes = append(codes, uint32(code))
			continue
		}
		words = append(words, c)
		switch c {
		case "connect-failure":
			headers = append(headers, present(headerUnreached))
		case "reset":
			headers = append(headers, present(headerUnanswered))
		}
	}
	if len(codes) > 0 {
		words = append(words, "retriable-status-codes")
	}
	if len(headers) > 0 {
		words = append(words, "retriable-headers")
	}
	slices.Sort(words)
	slices.Sort(codes)
	out := &routev3.RetryPolicy{
		RetryOn:              strings.Join(slices.Compact(words), ","),
		NumRetries:           u32(r.Times),
		RetriableStatusCodes: slices.Compact(codes),
		RetriableHeaders:     headers,
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: w.any(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: hostPicks,
	}
	if r.PerTry > 0 {
		out.PerTryTimeout = dur(r.PerTry)
	}
	if r.Backoff > 0 {
		out.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: dur(r.Backoff)}
		if r.BackoffMax > 0 {
			out.RetryBackOff.MaxInterval = dur(max(r.Backoff, r.BackoffMax))
		}
	}
	return out
}

func present(name string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
}

// literal sets a header to exactly this text: Envoy would read % as a command.
func literal(name, text string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return formatted(name, strings.ReplaceAll(text, "%", "%%"), action)
}

func formatted(name, format string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:         &corev3.HeaderValue{Key: name, Value: format},
		AppendAction:   action,
		KeepEmptyValue: true,
	}
}
