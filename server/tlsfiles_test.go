package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kerege/kerege/config"
)

// writePair writes a self-signed certificate and its key, and dates the file.
func writePair(t *testing.T, f config.TLSFiles, serial int64, at time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "api"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{f.CertFile: {Type: "CERTIFICATE", Bytes: der}, f.KeyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(f.CertFile, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestAPICertificateFromFiles(t *testing.T) {
	dir := t.TempDir()
	f := config.TLSFiles{CertFile: filepath.Join(dir, "api.pem"), KeyFile: filepath.Join(dir, "api-key.pem")}
	if _, err := newCertFiles(f); err == nil {
		t.Fatal("files that are not there were taken")
	}
	writePair(t, f, 1, time.Unix(1000, 0))
	c, err := newCertFiles(f)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		cert, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("serial %d", got)
	}
	writePair(t, f, 2, time.Unix(2000, 0))
	if got := serial(); got != 2 {
		t.Errorf("a changed file is not read again: serial %d", got)
	}
	if err := os.WriteFile(f.CertFile, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("a broken file took the certificate away: serial %d", got)
	}
}
