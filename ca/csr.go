package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
)

const maxCSR = 16 << 10

// publicKey takes the public key out of a certificate request and nothing else.
// What the request asks for besides is not looked at.
func publicKey(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("the certificate request has %d bytes, more than %d", len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate request cannot be read: %w", err)
	}
	if !bytes.Equal(csr.Raw, der) {
		return nil, errors.New("there are bytes after the certificate request")
	}
	// The key is judged before it is used: checking a signature of a huge one is work.
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
		return nil, errors.New("the key of the certificate request is not ECDSA P-256 or P-384")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed by its own key: %w", err)
	}
	return key, nil
}

// CheckRequest says what is wrong with a certificate request, without signing
// it. The error wraps ErrSign.
func CheckRequest(der []byte) error {
	if _, err := publicKey(der); err != nil {
		return fmt.Errorf("%w: %w", ErrSign, err)
	}
	return nil
}
