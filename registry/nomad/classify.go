package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// maxContact is how long a server may be out of touch with its leader before
// its answers are stale.
const maxContact = 30 * time.Second

// verdict is what an answer is worth.
type verdict struct {
	state mesh.SourceState
	why   string // one sentence; "" when ok
}

var fine = verdict{state: mesh.SourceOK}

func (v verdict) ok() bool { return v.state == mesh.SourceOK }

// classify judges an answer by its error and headers.
func classify(what string, meta *api.QueryMeta, err error) verdict {
	switch {
	case err != nil:
		return refusal(what, err)
	case meta == nil || !meta.KnownLeader:
		return verdict{mesh.SourceStale, "Nomad answered for " + what + " without a known leader."}
	case meta.LastContact > maxContact:
		return verdict{mesh.SourceStale, fmt.Sprintf("Nomad answered for %s from %s ago.", what, meta.LastContact)}
	}
	return fine
}

func refusal(what string, err error) verdict {
	switch code := statusOf(err); {
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return verdict{mesh.SourceDenied, "Nomad refused the token for " + what + "; " + remedy(err) + "."}
	case code == http.StatusTooManyRequests:
		return verdict{mesh.SourceError, "Nomad refused " + what + " as one request too many; raise limits.http_max_conns_per_client on its agent."}
	case errors.Is(err, context.DeadlineExceeded):
		return verdict{mesh.SourceError, "Nomad did not answer for " + what + " in time."}
	}
	return verdict{mesh.SourceError, "Nomad could not be asked for " + what + ": " + err.Error()}
}

// policyLine lets a token see what a server reads.
const policyLine = `namespace "*" { policy = "read" }`

// remedy says what an operator does about a refused token. Nomad tells one that it
// does not know from one that has not the right.
func remedy(err error) string {
	if text := err.Error(); strings.Contains(text, "token not found") || strings.Contains(text, "token expired") {
		return "it does not know the token, or no longer: write one that is good into token_file"
	}
	return "a policy of it needs " + policyLine + `, or the namespaces that the settings name instead of "*"`
}

// nextIndex is what the next blocking query waits beyond: an index that went
// back starts from nothing, and zero, which would not wait, counts as one.
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

// condition is how one thing that is asked for is doing.
type condition struct {
	verdict
	since   time.Time // of its last whole answer
	trouble time.Time
}

func (c *condition) note(v verdict, now time.Time) {
	c.verdict = v
	if v.ok() {
		c.since = now
	} else {
		c.trouble = now
	}
}
