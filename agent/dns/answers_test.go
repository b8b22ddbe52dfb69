package dns

import (
	"testing"

	"github.com/miekg/dns"
)

func TestAnswersAreCounted(t *testing.T) {
	upstream, _, stop := resolver(t, echoA)
	s := start(t, upstream)
	ask(t, s, "udp", "api.mesh.", dns.TypeA)
	ask(t, s, "tcp", "nobody.mesh.", dns.TypeA)
	ask(t, s, "udp", "example.com.", dns.TypeA)
	stop()
	ask(t, s, "udp", "other.example.com.", dns.TypeA)
	if got, want := s.Answers(), (Answers{Mesh: 2, Upstream: 1, Failed: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}
