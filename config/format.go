package config

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format lays HCL out as `kerege fmt` does. JSON, and a text that Prescan
// refuses, are returned as they are: indenting a text that is nested without
// end would take all memory. Ask Prescan for the reason.
func Format(name string, src []byte) []byte {
	if strings.HasSuffix(name, ".json") {
		return src
	}
	if _, diags := Prescan(name, src); diags.HasErrors() {
		return src
	}
	return hclwrite.Format(src)
}

// IsFormatted says whether Format would change nothing.
func IsFormatted(name string, src []byte) bool { return bytes.Equal(src, Format(name, src)) }
