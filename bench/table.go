package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// table is printed with its columns aligned.
type table struct{ w *tabwriter.Writer }

func newTable(columns ...string) *table {
	t := &table{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)}
	fmt.Fprintln(t.w, "\t"+strings.Join(columns, "\t")+"\t")
	return t
}

// row takes texts, durations, and the rest as fmt prints it.
func (t *table) row(cells ...any) {
	for _, c := range cells {
		switch v := c.(type) {
		case time.Duration:
			c = ms(v)
		case float64:
			c = fmt.Sprintf("%.2f", v)
		}
		fmt.Fprintf(t.w, "%v\t", c)
	}
	fmt.Fprintln(t.w)
}

func (t *table) print() { t.w.Flush() }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// ratio of two figures; 0 where there is nothing to divide by.
func ratio[T ~int64](a, b T) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}
