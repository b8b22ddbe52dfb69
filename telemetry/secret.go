package telemetry

// Secret is text that no log, dump or error may show. Reveal is the only way out.
type Secret struct{ text string }

// NewSecret wraps a secret's text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal returns the text, for the one place that must send it.
func (s Secret) Reveal() string { return s.text }

// Set tells whether there is a secret at all.
func (s Secret) Set() bool { return s.text != "" }

func (Secret) String() string               { return "[redacted]" }
func (Secret) GoString() string             { return "[redacted]" }
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
