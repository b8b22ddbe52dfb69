package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kerege/kerege/durable"
)

// Files of the authority's directory. The mark lies beside the directory and
// holds the hashes of its roots, which are public: an emptied or replaced
// directory is told from one that never was.
const (
	stateFile   = "ca.state"
	rootKeyFile = "root.key"
	offlineFile = "root.key.offline"
	markSuffix  = ".roots"
)

// saved is a state as it is on disk; the root's key has a file of its own so
// that it can be carried away.
type saved struct {
	TrustDomain     string   `json:"trust_domain"`
	Roots           [][]byte `json:"roots"` // DER
	Intermediate    []byte   `json:"intermediate"`
	IntermediateKey []byte   `json:"intermediate_key"` // PKCS #8
}

// load gives the state in the directory, made first where there never was one.
func (a *Authority) load() (*state, error) {
	parent := filepath.Dir(a.dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	guard, err := lock(parent) // two first starts at once
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	if _, err := entries(parent); err != nil {
		return nil, err
	}
	fresh, err := a.fresh()
	if err != nil {
		return nil, err
	}
	if fresh {
		if err := a.create(); err != nil {
			return nil, err
		}
	}
	if a.lock, err = lock(a.dir); err != nil {
		return nil, err
	}
	return a.read()
}

// lock holds a directory until the file is closed or the process ends.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another kerege server uses %s: %w", dir, err)
	}
	return f, nil
}

// fresh says whether there is and was nothing.
func (a *Authority) fresh() (bool, error) {
	_, noMark := os.Lstat(a.dir + markSuffix)
	names, err := entries(a.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if len(names) > 0 {
		return false, nil
	}
	if !errors.Is(noMark, fs.ErrNotExist) {
		return false, fmt.Errorf("%s: %w: it is empty, and %s says that it held a CA; restore it from a backup. Removing that file too makes a new root, and every node must join again",
			a.dir, ErrDamaged, a.dir+markSuffix)
	}
	return true, nil
}

// create makes the first state beside its place and moves it there whole.
func (a *Authority) create() error {
	now := a.opt.Now()
	root, err := newIssuer("kerege root "+a.opt.TrustDomain, nil, now, a.opt.RootTTL)
	if err != nil {
		return err
	}
	s, err := a.withIntermediate(&state{roots: []*x509.Certificate{root.cert}, root: root}, now)
	if err != nil {
		return err
	}
	a.disk.at("create directory")
	tmp, err := durable.TempDir(a.dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	key, err := x509.MarshalPKCS8PrivateKey(root.key)
	if err != nil {
		return err
	}
	if err := a.disk.write(filepath.Join(tmp, rootKeyFile), "root key", key); err != nil {
		return err
	}
	if err := a.write(tmp, s); err != nil {
		return err
	}
	a.disk.at("rename directory")
	if err := os.Remove(a.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, a.dir); err != nil {
		return err
	}
	a.disk.at("sync parent")
	return durable.SyncDir(filepath.Dir(a.dir))
}

// save puts a state on disk: nobody is shown what is not there.
func (a *Authority) save(s *state) error { return a.write(a.dir, s) }

func (a *Authority) write(dir string, s *state) error {
	key, err := x509.MarshalPKCS8PrivateKey(s.intermediate.key)
	if err != nil {
		return err
	}
	v := saved{TrustDomain: a.opt.TrustDomain, Intermediate: s.intermediate.cert.Raw, IntermediateKey: key}
	for _, r := range s.roots {
		v.Roots = append(v.Roots, r.Raw)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.disk.write(filepath.Join(dir, stateFile), "ca", body)
}

// SavedTrustDomain is the one of the state in a directory, "" where there is no
// readable one: Open says what is wrong with it.
func SavedTrustDomain(dir string) string {
	body, err := readFile(filepath.Join(dir, stateFile), "ca")
	if err != nil {
		return ""
	}
	var v saved
	if json.Unmarshal(body, &v) != nil {
		return ""
	}
	return v.TrustDomain
}

// read checks everything that is there before any of it is believed.
func (a *Authority) read() (*state, error) {
	info, err := os.Lstat(a.dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s: %w: it is no directory", a.dir, ErrDamaged)
	}
	if err := ours(a.dir, info, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(a.dir, stateFile)
	body, err := readFile(path, "ca")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: it is missing; restore it from a backup", path, ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	s, err := a.parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	if s.root, err = a.rootKey(s.roots[0]); err != nil {
		return nil, err
	}
	return s, a.checkMark(s)
}

func (a *Authority) parse(body []byte) (*state, error) {
	var v saved
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if v.TrustDomain != a.opt.TrustDomain {
		return nil, fmt.Errorf("it is for the trust domain %[1]s, and the mesh's files say %[2]s; a trust domain is for life: write mesh { trust_domain = %[1]q }. Another data_dir makes another mesh, which every host joins anew", v.TrustDomain, a.opt.TrustDomain)
	}
	s := &state{}
	pool := x509.NewCertPool()
	for _, der := range v.Roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if !c.IsCA || c.CheckSignatureFrom(c) != nil {
			return nil, errors.New("a root in it does not sign itself")
		}
		s.roots = append(s.roots, c)
		pool.AddCert(c)
	}
	if len(s.roots) == 0 {
		return nil, errors.New("there is no root in it")
	}
	c, err := x509.ParseCertificate(v.Intermediate)
	if err != nil {
		return nil, err
	}
	// Its own time is no damage: an expired one is renewed.
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: c.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil || !c.IsCA {
		return nil, fmt.Errorf("its intermediate is not of its root (%w)", err)
	}
	if s.intermediate, err = issuerOf(c, v.IntermediateKey); err != nil {
		return nil, err
	}
	s.bundle = bundleOf(s.roots)
	return s, nil
}

func issuerOf(c *x509.Certificate, pkcs8 []byte) (*issuer, error) {
	k, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(c.PublicKey) {
		return nil, errors.New("a key does not belong to its certificate")
	}
	return &issuer{cert: c, key: key}, nil
}

// rootKey reads the active root's key; nil when an operator keeps it elsewhere
// and has said so with a file in its place.
func (a *Authority) rootKey(root *x509.Certificate) (*issuer, error) {
	path := filepath.Join(a.dir, rootKeyFile)
	der, err := readFile(path, "root key")
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(a.dir, offlineFile)); err == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: %w: it is missing; restore it from a backup, or put an empty file %s beside it if you keep it elsewhere on purpose", path, ErrDamaged, offlineFile)
	}
	if err != nil {
		return nil, err
	}
	i, err := issuerOf(root, der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return i, nil
}

// checkMark holds the state against the roots that were here before, and notes
// them where a first start was killed before it could.
func (a *Authority) checkMark(s *state) error {
	path := a.dir + markSuffix
	text, err := readFile(path, "roots")
	if errors.Is(err, fs.ErrNotExist) {
		return a.disk.write(path, "roots", []byte(s.hashes()))
	}
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(s.hashes(), "\n")
	if !strings.Contains(string(text), first+"\n") {
		return fmt.Errorf("%s: %w: its root is not the one that %s names: it was replaced. Restore the right one; removing that file accepts this one, and every node must join again", a.dir, ErrDamaged, path)
	}
	return nil
}
