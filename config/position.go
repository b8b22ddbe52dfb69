package config

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/kerege/kerege/mesh"
)

// Position is a place in a user's file; lines and columns start at 1.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

func at(r hcl.Range) Position {
	return Position{File: r.Filename, Line: r.Start.Line, Column: r.Start.Column}
}

func pos(r hcl.Range) mesh.Pos {
	return mesh.Pos{File: r.Filename, Line: r.Start.Line, Column: r.Start.Column}
}
