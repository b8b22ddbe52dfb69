package delta

// Standing is how one resource stands with the client.
type Standing struct {
	Covered  bool      // the client subscribes to it, by name or by wildcard
	Version  string    // the last that it accepted, "": none
	Resource *Resource // of that version; nil where only the client knows it
	Nack     *Nack     // the refusal that stands
}

// Standing of a resource; cheap, unlike Status.
func (s *Session) Standing(typ, name string) Standing {
	k := s.kinds[typ]
	if k == nil {
		return Standing{}
	}
	it := k.find(name)
	if it == nil {
		return Standing{Covered: k.wild}
	}
	return Standing{Covered: k.covers(it), Version: it.acked.version(), Resource: it.acked.res(), Nack: it.nack()}
}
