package seal

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/kerege/kerege/durable"
)

// Key seals files: AES-256 in GCM. It prints as [redacted].
type Key struct{ secret [32]byte }

func (Key) String() string               { return "[redacted]" }
func (Key) GoString() string             { return "[redacted]" }
func (Key) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// NewKey makes a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k.secret[:]) // it never fails: the runtime ends the process first
	return k
}

// LoadKey reads a key file: 32 bytes in base64. With create, a file that is not
// there is made; a file that cannot be read as a key is never replaced.
func LoadKey(path string, create bool) (Key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		k := NewKey()
		if err := durable.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(k.secret[:])+"\n")); err != nil {
			return Key{}, fmt.Errorf("making a seal key: %w", err)
		}
		return k, nil
	}
	if err != nil {
		return Key{}, fmt.Errorf("reading the seal key: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != 32 {
		return Key{}, fmt.Errorf("the seal key %s is not 32 bytes in base64; restore it, or move it away to start with an empty cache", path)
	}
	var k Key
	copy(k.secret[:], raw)
	return k, nil
}
