package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/mesh"
)

// Files in the directory, all sealed: the node's, with what it knows of its
// mesh, and one for each service.
const (
	nodeFile   = "node.sealed"
	svcPrefix  = "svc-"
	fileSuffix = ".sealed"
	fileKind   = "identity"
)

// saved is one file.
type saved struct {
	Mesh     *Mesh    `json:"mesh,omitempty"` // the node's file
	Service  string   `json:"service,omitempty"`
	Workload string   `json:"workload,omitempty"`
	Chain    [][]byte `json:"chain"`
	Key      []byte   `json:"key"` // PKCS #8
}

func (m *Manager) write(name string, v saved, s *SVID) error {
	key, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return err
	}
	v.Chain, v.Key = s.Chain, key
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return m.opt.Key.Write(filepath.Join(m.opt.Dir, name), fileKind, 1, plain)
}

func (m *Manager) read(name string) (saved, *SVID, error) {
	var v saved
	path := filepath.Join(m.opt.Dir, name)
	plain, _, err := m.opt.Key.Read(path, fileKind, 1)
	if err != nil {
		return v, nil, err
	}
	bad := func(err error) (saved, *SVID, error) {
		return v, nil, fmt.Errorf("%s is %w: %w", path, seal.ErrUnusable, err)
	}
	if err := json.Unmarshal(plain, &v); err != nil {
		return bad(err)
	}
	k, err := x509.ParsePKCS8PrivateKey(v.Key)
	if err != nil {
		return bad(err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return bad(errors.New("its key is of another kind"))
	}
	s, err := newSVID(v.Chain, key)
	if err != nil {
		return bad(err)
	}
	return v, s, nil
}

// load takes in what is on disk. A file that cannot be believed is moved aside
// and said; what it held is asked for again.
func (m *Manager) load() error {
	if err := os.MkdirAll(m.opt.Dir, 0o700); err != nil {
		return fmt.Errorf("opening the identities: %w", err)
	}
	v, s, err := m.read(nodeFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // never joined
	case err != nil && !errors.Is(err, seal.ErrUnusable):
		return fmt.Errorf("opening the identities: %w", err)
	case err != nil:
		m.trouble = m.aside(nodeFile, err)
		return nil
	}
	pool, _, err := poolOf(v.Mesh.bundle())
	if err != nil || s.ID.Kind != mesh.KindNodeIdentity {
		m.trouble = m.aside(nodeFile, fmt.Errorf("%s is %w: it is not a node's", nodeFile, seal.ErrUnusable))
		return nil
	}
	m.mesh, m.pool = *v.Mesh, pool
	m.add(Workload{}, s)
	list, err := os.ReadDir(m.opt.Dir)
	if err != nil {
		return fmt.Errorf("opening the identities: %w", err)
	}
	for _, f := range list {
		if !strings.HasPrefix(f.Name(), svcPrefix) || !strings.HasSuffix(f.Name(), fileSuffix) {
			continue
		}
		v, s, err := m.read(f.Name())
		w := Workload{Service: mesh.ServiceName(v.Service), Workload: v.Workload}
		if err == nil && s.ID != mesh.ServiceIdentity(m.mesh.TrustDomain, w.Service) {
			err = fmt.Errorf("%s is %w: it is %s", f.Name(), seal.ErrUnusable, s.ID)
		}
		if err != nil {
			m.aside(f.Name(), err)
			continue
		}
		m.add(w, s)
	}
	return nil
}

func (m *Manager) aside(name string, why error) string {
	to, err := seal.Aside(filepath.Join(m.opt.Dir, name), m.opt.Now())
	if err != nil {
		m.opt.Log.Error("a file that cannot be believed cannot be moved either", "error", err)
	}
	m.opt.Log.Error("a file of identities cannot be believed; it is kept for a look and what it held is asked for again", "error", why, "kept", to)
	return why.Error() + "; join again with a new token"
}

func (w Workload) file() string {
	name := svcPrefix + string(w.Service)
	if w.Workload != "" {
		name += "." + w.Workload // a service's name has no dot
	}
	return name + fileSuffix
}
