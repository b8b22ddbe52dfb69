package command

import (
	"errors"
	"net"
	"strconv"
	"sync"
)

// Where numbers are looked for: below what the kernel gives to connections that
// leave, so that none of those is in the way.
const (
	firstServer   = 20001
	firstUpstream = 21001
	firstInbound  = 22001
	firstApp      = 23001
	portRange     = 900
)

// devPorts hands out free ports of 127.0.0.1; who asks again gets the same.
type devPorts struct {
	mu    sync.Mutex
	by    map[string]uint16
	taken map[uint16]bool
	free  func(uint16) bool
}

func newDevPorts() *devPorts {
	return &devPorts{by: map[string]uint16{}, taken: map[uint16]bool{}, free: freeOnLoopback}
}

var errNoPort = errors.New("no port of 127.0.0.1 is free")

// take is a port for who, the first free one from a number on.
func (p *devPorts) take(who string, from uint16) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port, ok := p.by[who]; ok {
		return port, nil
	}
	for port := from; port < from+portRange; port++ {
		if p.taken[port] || !p.free(port) {
			continue
		}
		p.by[who], p.taken[port] = port, true
		return port, nil
	}
	return 0, errNoPort
}

func freeOnLoopback(port uint16) bool {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(int(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
