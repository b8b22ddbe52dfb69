package ca

import (
	"bytes"
	"crypto/x509"
	"testing"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

func FuzzRequest(f *testing.F) {
	f.Add([]byte{})
	f.Add(request(f, &x509.CertificateRequest{DNSNames: []string{"a"}}, p256(f)))
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := publicKey(der)
		if err == nil && !key.Curve.IsOnCurve(key.X, key.Y) {
			t.Error("a key that is no point of its curve")
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("kj_")
	f.Add(keregev1.JoinToken{Servers: []string{"a:1", "[::1]:2"}}.Text())
	f.Fuzz(func(t *testing.T, text string) {
		k, err := keregev1.ParseJoinToken(text)
		if err != nil {
			if len(text) > 20 && bytes.Contains([]byte(err.Error()), []byte(text)) {
				t.Error("the error shows the token")
			}
			return
		}
		again, err := keregev1.ParseJoinToken(k.Text())
		if err != nil || again.Text() != k.Text() || again.Secret != k.Secret || again.CAHash != k.CAHash {
			t.Errorf("%v", err)
		}
	})
}

func FuzzBundle(f *testing.F) {
	i, err := newIssuer("x", nil, newClock().t, 1e15)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add(bundleOf([]*x509.Certificate{i.cert, i.cert}))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseBundle(text)
		if err != nil {
			return
		}
		again, err := ParseBundle(bundleOf(list))
		if err != nil || len(again) != len(list) {
			t.Errorf("%d certificates, then %d: %v", len(list), len(again), err)
		}
	})
}
