package server

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kerege/kerege/config"
)

// certFiles is the API's certificate from PEM files, read again when they change.
// What cannot be read leaves the one before in use.
type certFiles struct {
	files config.TLSFiles

	mu    sync.Mutex
	mtime time.Time
	cert  *tls.Certificate
}

func newCertFiles(f config.TLSFiles) (*certFiles, error) {
	c := &certFiles{files: f}
	_, err := c.get(nil)
	return c, err
}

func (c *certFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.files.CertFile)
	if err == nil && c.cert != nil && info.ModTime().Equal(c.mtime) {
		return c.cert, nil
	}
	var next tls.Certificate
	if err == nil {
		next, err = tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	}
	if err != nil {
		if c.cert != nil {
			return c.cert, nil
		}
		return nil, fmt.Errorf("reading the API's certificate: %w", err)
	}
	c.cert, c.mtime = &next, info.ModTime()
	return c.cert, nil
}

// httpsConfig is the API's TLS: the settings' files, or a certificate of the mesh's own CA.
func (s *Server) httpsConfig() (*tls.Config, error) {
	config := s.cert.HTTPS()
	if s.cfg.TLS.CertFile == "" {
		return config, nil
	}
	files, err := newCertFiles(s.cfg.TLS)
	if err != nil {
		return nil, err
	}
	config.GetCertificate = files.get
	return config, nil
}
