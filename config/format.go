package config

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
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

// Syntax says what keeps a text from being HCL at all; whether its words mean
// anything is not asked.
func Syntax(name string, src []byte) Diagnostics {
	p := &parser{sink: newSink(map[string][]byte{name: src})}
	if prescan(p.sink, name, src); len(p.diags) == 0 && !strings.HasSuffix(name, ".json") {
		_, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
		p.foreign(diags)
	}
	return p.done()
}

// IsFormatted says whether Format would change nothing.
func IsFormatted(name string, src []byte) bool { return bytes.Equal(src, Format(name, src)) }
