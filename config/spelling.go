package config

import "strings"

// A slip of the fingers is a few edits: more are another word, and looking for
// them costs the square of a name's length.
const (
	maxEdits   = 5
	maxSpelled = 64 // bytes of a name that is helped with
)

// nearest returns the candidate that is meant, or "".
func nearest(given string, candidates []string) string {
	if len(given) > maxSpelled {
		return ""
	}
	best, score := "", min(1+(len(given)+1)/3, maxEdits+1)
	given = folded(given)
	for _, c := range candidates {
		name := folded(c)
		d := distance(given, name, score)
		if len(name) > 2 && len(given) > 2 && (strings.HasPrefix(given, name) || strings.HasPrefix(name, given)) {
			d = min(d, 2)
		}
		if d < score {
			best, score = c, d
		}
	}
	return best
}

func folded(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }

// distance is the number of edits between two words, a swap of neighbours being
// one; limit where it is that or more. Only the band of cells that can stay below
// the limit is looked at.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	low := 0 // of the last row
	for i := 1; i <= len(a); i++ {
		first, end := max(1, i-limit), min(len(b), i+limit)
		row[first-1] = limit
		if first == 1 {
			row[0] = i
		}
		least := row[first-1]
		for j := first; j <= end; j++ {
			row[j] = last[j-1]
			if a[i-1] != b[j-1] {
				row[j]++
			}
			row[j] = min(row[j], row[j-1]+1)
			if j < i+limit { // else above the band of the last row
				row[j] = min(row[j], last[j]+1)
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least >= limit && low >= limit { // a swap looks two rows back
			return limit
		}
		low = least
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit)
}

// speller helps with names of services. It stops when it has compared enough: a
// text of thousands of unknown names is not one of typos.
type speller struct {
	known []string
	has   map[string]bool
	left  int // comparisons
}

func newSpeller(known []string) *speller {
	s := &speller{known: known, has: make(map[string]bool, len(known)), left: 1 << 20}
	for _, k := range known {
		s.has[k] = true
	}
	return s
}

func (s *speller) near(name string) string {
	if s.left -= len(s.known); s.left < 0 {
		return ""
	}
	return nearest(name, s.known)
}
