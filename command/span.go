package command

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// span is a duration as an option: "90s", "10m", or a number of seconds.
type span time.Duration

func (s *span) Set(text string) error {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		text = strconv.FormatFloat(seconds, 'f', -1, 64) + "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("a duration is written 90s, 10m or 2h")
	}
	*s = span(d)
	return nil
}

func (s *span) String() string {
	text := time.Duration(*s).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if cut, ok := strings.CutSuffix(text, zero); ok {
			text = cut + zero[:1]
		}
	}
	return text
}
