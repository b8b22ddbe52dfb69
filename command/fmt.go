package command

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kerege/kerege/config"
)

func fmtCommand() Command {
	var check bool
	return Command{
		Name:     "fmt",
		Synopsis: "Write HCL files in the one layout",
		Args:     "[DIR|FILE...|-]",
		Long: `Rewrites files in place in the layout that everybody's files have, and lists those it
changed. With - it reads stdin and writes stdout. It never changes what a file means.
A file that is no HCL is left as it is, and named.

With -check nothing is written; exits 2 when a file would change.`,
		Example: "kerege fmt -check /etc/kerege.d/mesh",
		Flags: func(f *flag.FlagSet) {
			f.BoolVar(&check, "check", false, "Write nothing; exit 2 when a file would change.")
		},
		Run: func(c *Call) error {
			if len(c.Args) == 1 && c.Args[0] == "-" {
				src, err := io.ReadAll(io.LimitReader(c.in, 4<<20))
				if err != nil {
					return fmt.Errorf("reading stdin: %w", err)
				}
				if err := c.syntax("stdin.hcl", src); err != nil {
					return err
				}
				_, err = c.out.Write(config.Format("stdin.hcl", src))
				return err
			}
			paths := c.Args
			if len(paths) == 0 {
				paths = []string{"."}
			}
			changed, broken, err := c.formatAll(paths, check)
			if err != nil {
				return err
			}
			if c.JSON {
				if err := c.printJSON(changed); err != nil {
					return err
				}
			} else {
				for _, f := range changed {
					fmt.Fprintln(c.out, f)
				}
			}
			switch {
			case broken:
				return exit{code: exitError}
			case check && len(changed) > 0:
				return findings()
			}
			return nil
		},
	}
}

// formatAll goes on behind a file that is no HCL, and says that there is one.
func (c *Call) formatAll(paths []string, check bool) (changed []string, broken bool, err error) {
	changed = []string{}
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".hcl") {
				return err
			}
			did, err := c.formatFile(file, check)
			if did {
				changed = append(changed, file)
			}
			if errors.As(err, &exit{}) {
				broken, err = true, nil
			}
			return err
		})
		if err != nil {
			return nil, false, fmt.Errorf("formatting: %w", err)
		}
	}
	return changed, broken, nil
}

// syntax prints what keeps a text from being HCL.
func (c *Call) syntax(name string, src []byte) error {
	diags := config.Syntax(name, src)
	if !diags.HasErrors() {
		return nil
	}
	if err := diags.WriteText(c.err, c.color); err != nil {
		return err
	}
	return exit{code: exitError}
}

// formatFile rewrites one file, by a rename, so that a crash leaves the old or the new one.
func (c *Call) formatFile(file string, check bool) (changed bool, err error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	if err := c.syntax(file, src); err != nil {
		return false, err
	}
	out := config.Format(file, src)
	if bytes.Equal(src, out) || check {
		return !bytes.Equal(src, out), nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return false, err
	}
	temp := file + ".kerege-fmt"
	if err := os.WriteFile(temp, out, info.Mode().Perm()); err != nil {
		return false, err
	}
	if err := os.Rename(temp, file); err != nil {
		return false, err
	}
	return true, nil
}
