package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kerege/kerege/durable"
)

// store is one small file that survives a crash at any moment; its first line
// carries kind, version and checksum.
// path "" is no file.
type store struct {
	path    string
	kind    string // "members"
	version int    // of what is in it
	now     func() time.Time
}

var errNoFile = errors.New("there is no file")

func (h *Hub) store(name string, version int) store {
	s := store{kind: name, version: version, now: h.opt.Now}
	if h.opt.DataDir != "" {
		s.path = filepath.Join(h.opt.DataDir, name+".json")
	}
	return s
}

func (s store) header(body []byte) string {
	return fmt.Sprintf("kerege %s %d %x\n", s.kind, s.version, sha256.Sum256(body))
}

func (s store) write(v any) error {
	if s.path == "" {
		return nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", s.path, err)
	}
	err = os.MkdirAll(filepath.Dir(s.path), 0o700)
	if err == nil {
		err = durable.WriteFile(s.path, append([]byte(s.header(body)), body...))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", s.path, err)
	}
	return nil
}

// read fills v. errNoFile is a first start; any other error is a file that
// cannot be trusted, which has been moved aside if it could be.
func (s store) read(v any) error {
	if s.path == "" {
		return errNoFile
	}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoFile
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", s.path, err)
	}
	if why := s.parse(text, v); why != "" {
		aside := fmt.Sprintf("%s.refused-%d", s.path, s.now().Unix())
		if err := os.Rename(s.path, aside); err != nil {
			return fmt.Errorf("reading %s: it %s and cannot be moved aside: %w", s.path, why, err)
		}
		return fmt.Errorf("reading %s: it %s; it is kept as %s", s.path, why, aside)
	}
	return nil
}

// parse says what is wrong with a file's text; "" when nothing is.
func (s store) parse(text []byte, v any) string {
	first, body, ok := bytes.Cut(text, []byte("\n"))
	var kind string
	var version int
	var sum []byte
	if n, err := fmt.Sscanf(string(first), "kerege %s %d %x", &kind, &version, &sum); !ok || n != 3 || err != nil || kind != s.kind {
		return "is no file of kerege's " + s.kind
	}
	if version != s.version {
		return fmt.Sprintf("is of version %d, this server reads version %d", version, s.version)
	}
	if string(first)+"\n" != s.header(body) {
		return "is damaged: its checksum does not fit"
	}
	if err := json.Unmarshal(body, v); err != nil {
		return "is damaged: " + err.Error()
	}
	return ""
}
