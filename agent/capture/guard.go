package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// process is one process, told from a later one with its number.
type process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // clock ticks after boot
}

func thisProcess() process { return process{os.Getpid(), startOf(os.Getpid())} }

func (p process) alive() bool { return p.PID > 0 && startOf(p.PID) == p.Start && p.Start != 0 }

func startOf(pid int) uint64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name is in brackets and may hold anything; 20 fields follow to the start.
	_, rest, _ := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" {
		return 0
	}
	n, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Orphaned does what must be done when the agent is gone: the DNS jump goes,
// unless Options.KeepDNS says that somebody answers there; so do rules of
// workloads in bypass whose Envoy does not listen; and what nobody confirmed in
// time is undone. Where an agent looks after the capture it does nothing and says
// so.
func (m *Manager) Orphaned(ctx context.Context) (orphan bool, err error) {
	err = m.locked(func(s *state) error {
		if s.Config == nil || s.Agent.alive() {
			return nil
		}
		orphan = true
		if !s.Deadline.IsZero() && !time.Now().Before(s.Deadline) {
			return m.undo(ctx, s)
		}
		c := s.Config.clone()
		if m.o.KeepDNS == nil || !m.o.KeepDNS() {
			c.DNS = false
		}
		s.Config = &c
		for _, w := range c.Workloads {
			m.down[w.Name] = w.Bypass && !listening(w.Netns, w.OutboundPort)
		}
		m.saveOrRemember(*s)
		_, err := m.bring(ctx, s, false)
		return errors.Join(err, m.save(*s))
	})
	return orphan, err
}

// Guard waits until alive ends, as it does when the agent that holds the other
// end dies, and then stands in for it until an agent is back or nothing is
// captured. One byte on alive before its end says that the agent stopped in order.
func Guard(ctx context.Context, o Options, alive io.Reader) error {
	buf := make([]byte, 1)
	for {
		n, err := alive.Read(buf)
		if n > 0 {
			return nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrClosed) {
			break
		}
		if err != nil {
			return fmt.Errorf("guarding the capture: %w", err)
		}
	}
	m := New(o)
	m.outlive(ctx)
	for {
		orphan, err := m.Orphaned(ctx)
		if err != nil {
			m.o.Log.Error("standing in for the agent", "error", err)
		}
		if err == nil && !orphan && m.over() {
			return nil
		}
		select {
		case <-ctx.Done():
			return m.standDown()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// outlive waits for the end of the agent on record, whose files close a moment
// before it is gone.
func (m *Manager) outlive(ctx context.Context) {
	for range 100 {
		if s, err := m.file.load(); err != nil || !s.Agent.alive() || ctx.Err() != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// standDown takes the DNS jump out where this process is told to end before an
// agent is back: nobody answers there any more.
func (m *Manager) standDown() error {
	m.o.KeepDNS = nil
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := m.Orphaned(ctx)
	return err
}

// over tells whether nothing is captured, or an agent is back.
func (m *Manager) over() bool {
	s, err := m.file.load()
	return errors.Is(err, fs.ErrNotExist) || (err == nil && (s.Config == nil || s.Agent.alive()))
}
