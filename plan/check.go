package plan

// Check compiles everything that a snapshot has, for whoever may ask, and lists
// the problems, sorted: what is wrong although it parses.
func Check(v *View) []Problem {
	f := newFresh(v)
	for _, name := range v.Services() {
		f.clusters(name)
		f.policies(name)
		f.upstream(name, "")
	}
	return sortProblems(f.problems)
}
