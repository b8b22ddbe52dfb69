package command

import (
	"strings"
	"testing"
)

// One long name shifts its own row alone, and colours count for nothing.
func TestTable(t *testing.T) {
	var tab table
	long := strings.Repeat("x", alignedTo+1)
	tab.add("name", "state", "since")
	tab.add("api", "\x1b[31mrefused\x1b[0m", "1 s")
	tab.add(long, "synced", "2 s")
	var b strings.Builder
	tab.print(&b)
	want := "name  state    since\napi   \x1b[31mrefused\x1b[0m  1 s\n" + long + "  synced   2 s\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
