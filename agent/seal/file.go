package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/kerege/kerege/durable"
)

// ErrUnusable is wrapped when a file is there and must not be believed. Its
// text is one sentence for the operator.
var ErrUnusable = errors.New("not usable")

const (
	magic   = "kerege sealed file 1\n"
	maxFile = 256 << 20
)

// Write seals plain into path, crash-safe. kind says what it is and version how
// it is written inside: Read wants the same kind and at most the same version.
func (k Key) Write(path, kind string, version int, plain []byte) error {
	aead, err := k.aead()
	if err != nil {
		return fmt.Errorf("sealing %s: %w", path, err)
	}
	head := []byte(magic + kind + " " + strconv.Itoa(version) + "\n")
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)
	body := aead.Seal(nonce, nonce, plain, head)
	sum := sha256.Sum256(body)
	out := make([]byte, 0, len(head)+len(sum)+len(body))
	out = append(append(append(out, head...), sum[:]...), body...)
	if err := durable.WriteFile(path, out); err != nil {
		return fmt.Errorf("sealing %s: %w", path, err)
	}
	return nil
}

// Read opens what Write wrote, and says how it was versioned. A file that is not
// there is fs.ErrNotExist; one that must not be believed is ErrUnusable.
func (k Key) Read(path, kind string, latest int) (plain []byte, version int, err error) {
	text, err := readBounded(path)
	if err != nil {
		return nil, 0, err
	}
	bad := func(why string) ([]byte, int, error) {
		return nil, 0, fmt.Errorf("%s is %w: %s", path, ErrUnusable, why)
	}
	rest, ok := bytes.CutPrefix(text, []byte(magic))
	line, rest, found := bytes.Cut(rest, []byte("\n"))
	name, number, named := bytes.Cut(line, []byte(" "))
	version, err = strconv.Atoi(string(number))
	if !ok || !found || !named || err != nil || len(line) > 200 || len(rest) < sha256.Size {
		return bad("it does not begin like a sealed file of kerege")
	}
	if string(name) != kind {
		return bad(fmt.Sprintf("it holds %q, not %q", name, kind))
	}
	if version > latest || version < 1 {
		return bad(fmt.Sprintf("it was written by a later kerege (version %d; this one reads up to %d)", version, latest))
	}
	sum, body := rest[:sha256.Size], rest[sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(sum, got[:]) {
		return bad("it is damaged (its checksum is wrong)")
	}
	aead, err := k.aead()
	if err != nil {
		return nil, 0, fmt.Errorf("opening %s: %w", path, err)
	}
	if len(body) < aead.NonceSize() {
		return bad("it is damaged (it is too short)")
	}
	plain, err = aead.Open(nil, body[:aead.NonceSize()], body[aead.NonceSize():], text[:len(magic)+len(line)+1])
	if err != nil {
		return bad("it is sealed with another key")
	}
	return plain, version, nil
}

func (k Key) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.secret[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading state: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is %w: it is no regular file of at most %d bytes", path, ErrUnusable, maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading state: %w", err)
	}
	return text, nil
}

// Aside renames a file that must not be believed, so that it is kept for a look
// and not read again. It returns the new name.
func Aside(path string, now time.Time) (string, error) {
	to := path + ".refused-" + now.UTC().Format("20060102T150405")
	if err := os.Rename(path, to); err != nil {
		return "", fmt.Errorf("moving a refused file aside: %w", err)
	}
	return to, nil
}
