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

// defaultMesh is where mesh files are that nobody names.
const defaultMesh = "/etc/kerege.d/mesh"

// fmtRun is what one invocation of kerege fmt does.
type fmtRun struct {
	*Call
	check, recursive bool

	changed []string
	skipped []string // files of other programs
	broken  bool     // one is no HCL
}

func fmtCommand() Command {
	var check, recursive bool
	return Command{
		Name:     "fmt",
		Synopsis: "Write HCL files in the one layout",
		Args:     "[DIR|FILE...|-]",
		Long: `Rewrites files in place in the layout that everybody's files have, and lists those it
changed. Left out, the directory is /etc/kerege.d/mesh, as for kerege validate. With - it
reads stdin and writes stdout. It never changes what a file means.

Of a directory it takes the files that end in .hcl, are not hidden and are kerege's: mesh
files and settings. Directories inside are looked into with -recursive only. A file of
another program, such as a Nomad job, is left as it is and named; so is one with a word
that kerege does not know. Asked for by name, it is an error. A file that is no HCL is left
as it is, and named.

With -check nothing is written; exits 2 when a file would change.`,
		Example: "kerege fmt -check /etc/kerege.d/mesh",
		Flags: func(f *flag.FlagSet) {
			f.BoolVar(&check, "check", false, "Write nothing; exit 2 when a file would change.")
			f.BoolVar(&recursive, "recursive", false, "Look into the directories of a directory, too, but for hidden ones.")
		},
		Run: func(c *Call) error {
			if len(c.Args) == 1 && c.Args[0] == "-" {
				return c.formatStdin()
			}
			paths, err := orDefaultMesh(c.Args, "fmt")
			if err != nil {
				return err
			}
			f := fmtRun{Call: c, check: check, recursive: recursive, changed: []string{}}
			if err := f.all(paths); err != nil {
				return err
			}
			return f.report()
		},
	}
}

// orDefaultMesh is the paths, or the default directory where there are none; an
// error where that is not there.
func orDefaultMesh(paths []string, command string) ([]string, error) {
	if len(paths) > 0 {
		return paths, nil
	}
	if _, err := os.Stat(defaultMesh); err != nil {
		return nil, fmt.Errorf("%s, the default where no file or directory is named, cannot be read: %w\nName one: kerege %s DIR", defaultMesh, errors.Unwrap(err), command)
	}
	return []string{defaultMesh}, nil
}

func (c *Call) formatStdin() error {
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

func (f *fmtRun) report() error {
	if f.JSON {
		if err := f.printJSON(f.changed); err != nil {
			return err
		}
	} else {
		for _, file := range f.changed {
			fmt.Fprintln(f.out, file)
		}
	}
	for _, file := range f.skipped {
		fmt.Fprintf(f.err, "left as it is, not kerege's: %s\n", plain(file))
	}
	switch {
	case f.broken:
		return exit{code: exitError}
	case f.check && len(f.changed) > 0:
		return findings()
	}
	return nil
}

// all goes on behind a file that is no HCL, and says that there is one.
func (f *fmtRun) all(paths []string) error {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("formatting: %w", err)
		}
		if !info.IsDir() {
			err = f.file(path, true)
		} else {
			err = f.dir(path)
		}
		if err != nil {
			return fmt.Errorf("formatting: %w", err)
		}
	}
	return nil
}

func (f *fmtRun) dir(dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		hidden := strings.HasPrefix(d.Name(), ".") && file != dir
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != dir && (hidden || !f.recursive):
			return fs.SkipDir
		case d.IsDir() || hidden || !strings.HasSuffix(file, ".hcl"):
			return nil
		}
		return f.file(file, false)
	})
}

// file formats one; named is whether the operator said its name.
func (f *fmtRun) file(file string, named bool) error {
	did, why, err := f.formatFile(file)
	switch {
	case errors.As(err, &exit{}):
		f.broken = true
		return nil
	case err != nil:
		return err
	case why != "" && named:
		return fmt.Errorf("%s is not a kerege file: %s\nNothing of it was changed. What is wrong with one that should be kerege's: kerege validate %s", file, why, file)
	case why != "":
		f.skipped = append(f.skipped, file+" ("+why+")")
	case did:
		f.changed = append(f.changed, file)
	}
	return nil
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

// formatFile rewrites one file, by a rename, so that a crash leaves the old or the
// new one. foreign is what in it is not kerege's; it is left alone then.
func (f *fmtRun) formatFile(file string) (changed bool, foreign string, err error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return false, "", err
	}
	if err := f.syntax(file, src); err != nil {
		return false, "", err
	}
	if foreign = config.Foreign(file, src); foreign != "" {
		return false, foreign, nil
	}
	out := config.Format(file, src)
	if bytes.Equal(src, out) || f.check {
		return !bytes.Equal(src, out), "", nil
	}
	to, err := filepath.EvalSymlinks(file) // a link stays one
	if err != nil {
		return false, "", err
	}
	info, err := os.Stat(to)
	if err != nil {
		return false, "", err
	}
	temp := to + ".kerege-fmt"
	if err := os.WriteFile(temp, out, info.Mode().Perm()); err != nil {
		return false, "", err
	}
	if err := os.Rename(temp, to); err != nil {
		return false, "", err
	}
	return true, "", nil
}
