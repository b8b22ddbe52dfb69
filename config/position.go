package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"

	"github.com/kerege/kerege/mesh"
)

// Position is a place in a user's file; lines and columns start at 1. Line 0 is
// the file as a whole.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// String is file:line:column, or the file's name alone.
func (p Position) String() string {
	if p.Line == 0 {
		return printable(p.File)
	}
	return fmt.Sprintf("%s:%d:%d", printable(p.File), p.Line, p.Column)
}

func at(r hcl.Range) Position {
	return Position{File: r.Filename, Line: r.Start.Line, Column: r.Start.Column}
}

func pos(r hcl.Range) mesh.Pos {
	return mesh.Pos{File: r.Filename, Line: r.Start.Line, Column: r.Start.Column}
}
