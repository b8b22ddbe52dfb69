package keregev1

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// Backdate is how long before its issue a certificate is valid from, so that a
// node whose clock is a little behind can use it. Its issue is NotBefore plus this.
const Backdate = 2 * time.Minute

// MaxSkew is how far a node's clock may be from its server's when it joins.
const MaxSkew = 5 * time.Minute

const (
	tokenPrefix = "kj_"
	tokenFormat = 1
	maxToken    = 4096 // bytes of text
	maxServers  = 16
)

// JoinToken is what a join token's text holds. It is a secret: it prints as
// [redacted], and Text is the one way to its words.
type JoinToken struct {
	Secret  [32]byte // random
	CAHash  [32]byte // SHA-256 of the root's public key (SubjectPublicKeyInfo, DER)
	Servers []string // host:port to try; may be empty
}

// NewJoinToken makes a token with a random secret.
func NewJoinToken(caHash [32]byte, servers []string) JoinToken {
	t := JoinToken{CAHash: caHash, Servers: servers}
	_, _ = rand.Read(t.Secret[:]) // it never fails: the runtime ends the process first
	return t
}

func (JoinToken) String() string               { return "[redacted]" }
func (JoinToken) GoString() string             { return "[redacted]" }
func (JoinToken) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Text is the token as it is pasted on a host: kj_ and base64url.
func (t JoinToken) Text() string {
	raw := append([]byte{tokenFormat}, t.Secret[:]...)
	raw = append(raw, t.CAHash[:]...)
	raw = append(raw, strings.Join(t.Servers, ",")...)
	sum := crc32.ChecksumIEEE(raw)
	raw = append(raw, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

// ParseJoinToken reads a token's text. Its errors never quote the text.
func ParseJoinToken(text string) (JoinToken, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > maxToken {
		return JoinToken{}, errors.New("this is no join token: one starts with kj_ and is made by `kerege token create`")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	const fixed = 1 + 32 + 32 + 4
	if err != nil || len(raw) < fixed {
		return JoinToken{}, errors.New("the join token is not whole; copy it again, from kj_ to its end")
	}
	end := len(raw) - 4
	sum := uint32(raw[end])<<24 | uint32(raw[end+1])<<16 | uint32(raw[end+2])<<8 | uint32(raw[end+3])
	if crc32.ChecksumIEEE(raw[:end]) != sum {
		return JoinToken{}, errors.New("the join token is not whole or was changed; copy it again, from kj_ to its end")
	}
	if raw[0] != tokenFormat {
		return JoinToken{}, fmt.Errorf("the join token is of format %d; this kerege reads format %d", raw[0], tokenFormat)
	}
	var t JoinToken
	copy(t.Secret[:], raw[1:33])
	copy(t.CAHash[:], raw[33:65])
	if list := string(raw[65:end]); list != "" {
		t.Servers = strings.Split(list, ",")
	}
	if len(t.Servers) > maxServers {
		return JoinToken{}, fmt.Errorf("the join token names more than %d servers", maxServers)
	}
	for _, s := range t.Servers {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return JoinToken{}, errors.New("the join token names a server that is no address")
		}
	}
	return t, nil
}

// BundleHash names a bundle in NodeReport: SHA-256 of its PEM, in hex.
func BundleHash(pem []byte) string {
	sum := sha256.Sum256(pem)
	return hex.EncodeToString(sum[:])
}
