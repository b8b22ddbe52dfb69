package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// markEnd is in a domain that nobody has: a mark never names a host.
const markEnd = ".mark.invalid"

// Mark names what one node is in the mesh from one joining to the next. Each
// certificate that is signed for the node has it as its DNS name and subject, so that what a
// node sent away still holds open is told from what others of the same service do.
func Mark(node string, joined time.Time) string {
	at := "0"
	if !joined.IsZero() {
		at = strconv.FormatInt(joined.UnixNano(), 10)
	}
	sum := sha256.Sum256([]byte(node + "\x00" + at))
	return hex.EncodeToString(sum[:16]) + markEnd
}

// IsMark says whether a name has the form of a mark.
func IsMark(name string) bool {
	text, ok := strings.CutSuffix(name, markEnd)
	_, err := hex.DecodeString(text)
	return ok && len(text) == 32 && err == nil
}
