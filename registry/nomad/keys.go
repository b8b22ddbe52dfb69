package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/hashicorp/nomad/api"
)

// Keys asks for the public keys of workload identities (a JWK set), and for the
// issuer that such tokens name: "" where the cluster has none.
func (s *Source) Keys(ctx context.Context) (keys []byte, issuer string, err error) {
	var set json.RawMessage
	if _, err := s.client.Raw().Query("/.well-known/jwks.json", &set, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
		return nil, "", fmt.Errorf("reading nomad's keys: %w", err)
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	_, err = s.client.Raw().Query("/.well-known/openid-configuration", &discovery, (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case statusOf(err) == http.StatusNotFound: // no oidc_issuer is set
		return set, "", nil
	case err != nil:
		return nil, "", fmt.Errorf("reading nomad's issuer: %w", err)
	}
	return set, discovery.Issuer, nil
}
