package command

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

// frozenSince begins a line about a freeze.
func frozenSince(f *api.Frozen) string {
	text := "frozen"
	if !f.Since.IsZero() {
		layout := "15:04:05"
		if time.Since(f.Since) > 20*time.Hour {
			layout = "2006-01-02 15:04:05"
		}
		text += " since " + f.Since.Local().Format(layout)
	}
	return text
}

// waits says how much waits for a thaw.
func waits(f *api.Frozen) string {
	switch f.Waiting {
	case 0:
		return "no change waits"
	case 1:
		return "1 change waits"
	}
	return fmt.Sprintf("%d changes wait", f.Waiting)
}

// frozenAnswer says what an answer is about while it is frozen: applied asked for
// what a thaw brings, and not for what the proxies have.
func frozenAnswer(f *api.Frozen, applied bool) string {
	switch {
	case f.Unknown:
		return frozenSince(f) + ", and this server was started again since: it does not know what the proxies have. This is what kerege thaw brings."
	case applied:
		return frozenSince(f) + ": this is what kerege thaw brings, and not what the proxies have; " + waits(f) + "."
	case f.Waiting == 0:
		return frozenSince(f) + ": no change waits."
	}
	return fmt.Sprintf("%s: %s; with -applied to see what kerege thaw brings.", frozenSince(f), waits(f))
}

// frozenLine prints what says has to say of a freeze, if there is one.
func (s *serverFlags) frozenLine(c *Call, says func(*api.Frozen) string) error {
	var f api.Freeze
	err := s.ask(c, "/v1/freeze", &f)
	if refused := (*api.Error)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil // an older server
	}
	if err != nil || f.Frozen == nil {
		return err
	}
	c.say(c.paint(color.FgYellow, says(f.Frozen)), 2)
	return nil
}
