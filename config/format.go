package config

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format lays HCL out as `kerege fmt` does. JSON is returned as it is. The
// text is not parsed first: what hcl cannot read keeps its bytes where they
// are, so Format never loses any; Prescan's limits are the caller's to ask.
func Format(name string, src []byte) []byte {
	if strings.HasSuffix(name, ".json") || len(src) > MaxFileBytes {
		return src
	}
	return hclwrite.Format(src)
}

// IsFormatted says whether Format would change nothing.
func IsFormatted(name string, src []byte) bool { return bytes.Equal(src, Format(name, src)) }
