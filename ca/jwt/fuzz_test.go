package jwt

import (
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzKeys feeds any bytes for Nomad's keys: what is believed are public keys
// that may sign, each under one name.
func FuzzKeys(f *testing.F) {
	for _, k := range []any{rsaKey.Public(), edPub} {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k, KeyID: "k", Use: "sig"}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"keys":[{"kty":"oct","kid":"k","k":"c2VjcmV0","use":"sig"}]}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := parse(text, "https://nomad.test")
		if err != nil {
			return
		}
		for id, k := range set.byID {
			if !k.IsPublic() || !k.Valid() || k.KeyID != id {
				t.Fatalf("%q is believed for %q", k.KeyID, text)
			}
		}
	})
}
