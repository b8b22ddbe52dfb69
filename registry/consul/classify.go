package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/mesh"
)

// maxContact is how long a server may be out of touch with its leader before
// its answers are stale.
const maxContact = 30 * time.Second

// verdict is what an answer is worth.
type verdict struct {
	state mesh.SourceState
	why   string // one sentence; "" when ok
	limit bool   // Consul refused one connection more
}

var fine = verdict{state: mesh.SourceOK}

// classify judges an answer by its error and headers. The leader and filter
// headers mean something only on a blocking query: a streamed answer always says
// that there is no known leader, and does not say when a token's narrowing has
// emptied it. Its losses are confirmed by a consistent read instead.
func classify(what string, meta *api.QueryMeta, err error) verdict {
	if err != nil {
		return refusal(what, err)
	}
	if meta.QueryBackend == api.QueryBackendStreaming {
		return fine
	}
	switch {
	case meta.ResultsFilteredByACLs:
		return verdict{state: mesh.SourceFiltered, why: "Consul left out of " + what + ` what the token may not see; it needs node_prefix "" { policy = "read" } and service_prefix "" { policy = "read" }.`}
	case !meta.KnownLeader:
		return verdict{state: mesh.SourceStale, why: "Consul answered for " + what + " without a known leader."}
	case meta.LastContact > maxContact:
		return verdict{state: mesh.SourceStale, why: fmt.Sprintf("Consul answered for %s from %s ago.", what, meta.LastContact)}
	}
	return fine
}

func refusal(what string, err error) verdict {
	switch code := statusOf(err); {
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return verdict{state: mesh.SourceDenied, why: "Consul refused the token for " + what + " (" + strings.TrimSpace(err.Error()) + `); it needs node_prefix "" { policy = "read" } and service_prefix "" { policy = "read" }.`}
	case code == http.StatusTooManyRequests:
		return verdict{state: mesh.SourceError, limit: true, why: "Consul refused " + what + " as one request too many; raise limits.http_max_conns_per_client on its agent."}
	case errors.Is(err, context.DeadlineExceeded):
		return verdict{state: mesh.SourceError, why: "Consul did not answer for " + what + " in time."}
	}
	return verdict{state: mesh.SourceError, why: "Consul could not be asked for " + what + ": " + err.Error()}
}

// nextIndex is what the next long poll waits beyond: an index that went back
// starts from nothing, and zero, which would not wait, counts as one.
func nextIndex(before, got uint64) uint64 {
	if got = max(got, 1); got < before {
		return 0
	}
	return got
}

// rank orders states by how much they say to an operator.
func rank(s mesh.SourceState) int {
	switch s {
	case mesh.SourceDenied:
		return 4
	case mesh.SourceFiltered:
		return 3
	case mesh.SourceError:
		return 2
	case mesh.SourceStale:
		return 1
	}
	return 0
}
