package config

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	words := []string{"timeout", "retry", "weight", "path_prefix", "path"}
	for given, want := range map[string]string{"wieght": "weight", "path-prefix": "path_prefix", "pathprefix": "path_prefix", "Timeout": "timeout", "xyz": "", "": "",
		strings.Repeat("a", 1000): ""} {
		if got := nearest(given, words); got != want {
			t.Errorf("%.20s: got %q, want %q", given, got, want)
		}
	}
}

// The band says what all cells would.
func TestDistance(t *testing.T) {
	whole := func(a, b string) int {
		d := make([][]int, len(a)+1)
		for i := range d {
			d[i] = make([]int, len(b)+1)
			for j := range d[i] {
				switch {
				case i == 0 || j == 0:
					d[i][j] = i + j
					continue
				case a[i-1] == b[j-1]:
					d[i][j] = d[i-1][j-1]
				default:
					d[i][j] = d[i-1][j-1] + 1
				}
				d[i][j] = min(d[i][j], d[i-1][j]+1, d[i][j-1]+1)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], d[i-2][j-2]+1)
				}
			}
		}
		return d[len(a)][len(b)]
	}
	random := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		w := make([]byte, random.IntN(12))
		for i := range w {
			w[i] = "abc"[random.IntN(3)]
		}
		return string(w)
	}
	below := 0
	for range 50_000 {
		a, b, limit := word(), word(), 1+random.IntN(7)
		want := min(whole(a, b), limit)
		if got := distance(a, b, limit); got != want {
			t.Fatalf("%q and %q, limit %d: %d, want %d", a, b, limit, got, want)
		}
		if want < limit {
			below++
		}
	}
	if below < 5000 {
		t.Errorf("%d pairs below the limit prove little", below)
	}
}

// Thousands of names that nobody knows are no typos.
func TestSpellerStops(t *testing.T) {
	var known []string
	for i := range 3000 {
		known = append(known, fmt.Sprintf("service-%04d", i))
	}
	s := newSpeller(known)
	helped := 0
	for range 1000 {
		if s.near("servcie-0001") != "" {
			helped++
		}
	}
	if helped < 100 || helped > 500 {
		t.Errorf("%d of 1000 were helped with", helped)
	}
}
