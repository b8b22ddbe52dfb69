package registry

import (
	"maps"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

// A service whose health changes more often than once a second, three quick
// changes apart, is flapping: it is followed once a second. Instances that come
// and go are never slowed down.
const (
	flapBurst = 3
	flapEvery = time.Second
	flapShown = 10 * time.Second // how long after the last slowed change it is called so
)

// damper belongs to the writer.
type damper struct {
	scopes map[partKey]*pace
}

type pace struct {
	tokens  float64
	at      time.Time // when tokens was right
	slowed  time.Time // last slowed change
	delayed *mesh.Part
}

// pass says whether a part may be applied now; if not it keeps it for expire.
func (d *damper) pass(now time.Time, p, before mesh.Part) bool {
	s := d.scopes[keyOf(p)]
	if s == nil {
		if !healthOnly(p, before) {
			return true
		}
		s = &pace{tokens: flapBurst, at: now}
		d.scopes[keyOf(p)] = s
	}
	if !healthOnly(p, before) {
		s.delayed = nil
		return true
	}
	s.fill(now)
	if s.delayed == nil && s.tokens >= 1 {
		s.tokens--
		return true
	}
	s.delayed, s.slowed = &p, now
	return false
}

func (s *pace) fill(now time.Time) {
	s.tokens = min(flapBurst, s.tokens+now.Sub(s.at).Seconds()/flapEvery.Seconds())
	s.at = now
}

// expire gives the delayed parts whose time has come.
func (d *damper) expire(now time.Time) (parts []mesh.Part, again time.Time) {
	for k, s := range d.scopes {
		s.fill(now)
		switch {
		case s.delayed != nil && s.tokens >= 1:
			s.tokens--
			parts = append(parts, *s.delayed)
			s.delayed = nil
		case s.delayed != nil:
			// A nanosecond over, so that rounding leaves no sliver of a token missing.
			again = sooner(again, now.Add(time.Duration((1-s.tokens)*float64(flapEvery))+1))
		case s.tokens >= flapBurst && now.Sub(s.slowed) > flapShown:
			delete(d.scopes, k)
		}
	}
	sortParts(parts)
	return parts, again
}

// forget drops a delayed part that something newer has overtaken.
func (d *damper) forget(parts []mesh.Part) {
	for _, p := range parts {
		if s := d.scopes[keyOf(p)]; s != nil {
			s.delayed = nil
		}
	}
}

// flapping lists the services that were slowed down lately, by source.
func (d *damper) flapping(now time.Time) map[string][]string {
	out := map[string][]string{}
	for k, s := range d.scopes {
		if !s.slowed.IsZero() && now.Sub(s.slowed) <= flapShown {
			out[k.source] = append(out[k.source], k.scope)
		}
	}
	for source := range maps.Keys(out) {
		slices.Sort(out[source])
	}
	return out
}
