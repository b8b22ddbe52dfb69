package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/hashicorp/go-hclog"
)

// Options of a Manager. Zero values are the defaults.
type Options struct {
	StateDir string        // where capture.json is; needed
	Log      hclog.Logger  // nil: none
	Wait     Wait          // for the tables
	Commands Commands      // which iptables
	Every    time.Duration // between looks at the tables; 0 is 10 s
	Dial     []string      // command that calls ProbeMain, needed to probe a slice: kerege capture dial
	KeepDNS  func() bool   // for Orphaned: whether someone else answers where the DNS jump goes; nil: nobody
}

// Manager keeps one node's capture as it should be. Its methods may be called
// from several goroutines, and from several processes on one StateDir.
type Manager struct {
	o       Options
	file    stateFile
	repairs atomic.Int64
	poke    chan struct{}
	tools   *tools

	mu       sync.Mutex
	last     *state          // as last written or read: used when the file is lost
	down     map[string]bool // workloads whose Envoy is gone, in bypass
	backends map[string]Backend
	lastErr  error
	refused  string                 // why there is no record, until there is one again
	saved    *state                 // as last written
	lost     bool                   // the file does not say what last does
	settled  bool                   // the tables were as they should be when last seen
	stolen   map[string][]string    // namespace → rules of others that stand before ours and stay there
	led      map[string][]time.Time // table → when its jump was last put first again
	missing  map[string]missing     // namespace → its rules were seen gone, and do not come back
}

// New makes a Manager. It touches nothing.
func New(o Options) *Manager {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Every <= 0 {
		o.Every = 10 * time.Second
	}
	return &Manager{o: o, file: stateFile{o.StateDir}, poke: make(chan struct{}, 1), tools: &tools{known: map[string]*iptables.IPTables{}}, down: map[string]bool{}, backends: map[string]Backend{},
		stolen: map[string][]string{}, led: map[string][]time.Time{}, missing: map[string]missing{}}
}

// Applied is what Apply did.
type Applied struct {
	Changed  bool          `json:"changed"`
	Took     time.Duration `json:"took"`
	Deadline time.Time     `json:"deadline,omitzero"` // when it is undone unless confirmed; zero: it stays
}

// Stops is the error of a config that must not be applied: exit code 2.
type Stops []Stop

func (s Stops) Error() string {
	var all []error
	for _, stop := range s {
		all = append(all, stop)
	}
	return errors.Join(all...).Error()
}

// Apply brings about c. With undo above zero a change undoes itself after that
// time unless Confirm is called; Run, or Guard when this process is gone, sees
// to it. Errors: Stops, *Pending (nothing was half done), or what failed, after
// which the old rules stand.
func (m *Manager) Apply(ctx context.Context, c Config, undo time.Duration) (Applied, error) {
	begin := time.Now()
	if stops := c.Check(); len(stops) > 0 {
		return Applied{}, Stops(stops)
	}
	c = c.clone()
	var out Applied
	err := m.locked(func(s *state) error {
		before := *s
		if undo > 0 { // an operator's word: the jumps are worth another try
			clear(m.led)
		}
		c := c.settleSessions(s.Config)
		if s.Config == nil || !same(*s.Config, c) {
			if s.Deadline.IsZero() {
				s.Previous = s.Config
			}
			s.Config = &c
			if undo > 0 { // without, one that is armed stays so
				s.Deadline = begin.Add(undo).Round(0)
			}
			if err := m.save(*s); err != nil {
				*s = before
				return fmt.Errorf("%w: nothing was changed, for what is not recorded cannot be undone", err)
			}
		}
		changed, err := m.bring(ctx, s, false)
		out = Applied{Changed: changed, Took: time.Since(begin), Deadline: s.Deadline}
		var pending *Pending
		if err != nil && !errors.As(err, &pending) {
			return m.takeBack(ctx, s, before, err)
		}
		m.refused = ""
		// What is pending stays wanted: Run tries again.
		m.settled = err == nil
		return errors.Join(err, m.save(*s))
	})
	m.wake()
	return out, err
}

// settleSessions keeps the sessions of the config before, where nothing else is
// new and the ports by which people come in are left alone already: that another
// operator logs in is no reason to write. Sessions that are open live on anyway.
func (c Config) settleSessions(before *Config) Config {
	if before == nil {
		return c
	}
	open := (&builder{c: *before}).never()
	for _, s := range c.Sessions {
		port := s.Local.Port()
		if !slices.ContainsFunc(open, func(r portRange) bool { return r.first <= port && port <= r.last }) {
			return c
		}
	}
	settled := c
	settled.Sessions = before.Sessions
	if !same(settled, *before) {
		return c
	}
	return settled
}

func same(a, b Config) bool { return sameJSON(a, b) }

func sameJSON[T any](a, b T) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// takeBack returns to what was recorded before a failed apply.
func (m *Manager) takeBack(ctx context.Context, s *state, before state, err error) error {
	s.Config, s.Previous, s.Deadline = before.Config, before.Previous, before.Deadline
	_, again := m.bring(context.WithoutCancel(ctx), s, false)
	if again != nil {
		m.o.Log.Error("taking back a failed apply", "error", again)
	}
	return errors.Join(err, m.save(*s))
}

// Confirm makes an applied capture stay.
func (m *Manager) Confirm(context.Context) error {
	err := m.locked(func(s *state) error {
		if s.Config == nil {
			return errors.New("confirming the capture: nothing is captured (it may have undone itself): kerege capture apply")
		}
		s.Deadline, s.Previous = time.Time{}, nil
		return m.save(*s)
	})
	m.wake()
	return err
}

// Remove takes out all that is ours, in every namespace that is known, and in
// this one whatever the record says. It is always safe.
func (m *Manager) Remove(ctx context.Context) (changed bool, err error) {
	err = m.locked(func(s *state) error {
		changed, err = m.removeAll(ctx, s)
		return err
	})
	m.wake()
	return changed, err
}

func (m *Manager) removeAll(ctx context.Context, s *state) (changed bool, err error) {
	known := *s
	s.Config, s.Previous, s.Deadline = nil, nil, time.Time{}
	changed, err = m.clean(ctx, &known)
	if err != nil {
		return changed, err
	}
	s.Backends, s.Cgroups, m.settled = nil, nil, false
	m.refused = ""
	m.saveOrRemember(*s)
	return changed, nil
}

// SetDNS turns the jump of port 53 on or off. Who turns it on is recorded before
// as the agent, or a stand-in of the agent before would turn it off again.
func (m *Manager) SetDNS(ctx context.Context, on bool) error {
	if on {
		m.attend()
	}
	return m.alter(ctx, func(c *Config) { c.DNS = on })
}

// SetDown says that a workload's Envoy is gone, or back. Where Bypass is set its
// rules go, and come back; else they stay, and its calls are refused.
func (m *Manager) SetDown(ctx context.Context, workload string, down bool) error {
	m.mu.Lock()
	m.down[workload] = down
	m.mu.Unlock()
	return m.alter(ctx, func(*Config) {})
}

func (m *Manager) alter(ctx context.Context, change func(*Config)) error {
	return m.locked(func(s *state) error {
		if s.Config == nil {
			return nil
		}
		c := s.Config.clone()
		change(&c)
		s.Config = &c
		if s.Previous != nil {
			p := s.Previous.clone()
			change(&p)
			s.Previous = &p
		}
		m.saveOrRemember(*s)
		_, err := m.bring(ctx, s, false)
		m.settled = err == nil
		return errors.Join(err, m.save(*s))
	})
}

// Repairs counts how often the tables were not as they should be and were mended.
func (m *Manager) Repairs() int64 { return m.repairs.Load() }

// locked runs do with the record, alone among all processes.
func (m *Manager) locked(do func(*state) error) error {
	unlock, err := m.file.lock()
	if err != nil {
		return err
	}
	defer unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.file.load()
	switch {
	case err == nil && m.newer(s):
		s = *m.last
	case err == nil:
		m.lost = false
	case m.last != nil:
		m.o.Log.Error("the capture's record is lost, going on from memory", "error", err)
		s, m.lost = *m.last, true
	case errors.Is(err, fs.ErrNotExist):
	default:
		m.refuse(err)
	}
	s.Backends, s.Cgroups = maps.Clone(s.Backends), maps.Clone(s.Cgroups)
	err = do(&s)
	m.lastErr = err
	return err
}

// refuse keeps a record that cannot be believed for a look, and says what is to be
// done about the rules that it told of.
func (m *Manager) refuse(err error) {
	to := m.file.path() + ".refused-" + time.Now().UTC().Format("20060102T150405")
	if e := os.Rename(m.file.path(), to); e != nil {
		to = "not moved aside: " + e.Error()
	}
	m.refused = fmt.Sprintf("the capture's record cannot be believed (%s; kept as %s): rules that are in the packet filter stay, and nobody looks after them. kerege capture apply makes and records them anew, kerege capture remove takes them out", err, to)
	m.o.Log.Error("starting without a record", "error", m.refused)
}

func (m *Manager) save(s state) error {
	s.Version = stateVersion
	if m.last != nil && !m.lost && reflect.DeepEqual(*m.last, s) {
		return nil
	}
	if err := m.file.save(s); err != nil {
		return err
	}
	m.remember(s)
	m.saved, m.lost = m.last, false
	return nil
}

// saveOrRemember goes on from memory where the record cannot be written.
func (m *Manager) saveOrRemember(s state) {
	if err := m.save(s); err != nil {
		m.o.Log.Error("recording the capture; going on from memory", "error", err)
		m.remember(s)
		m.lost = true
	}
}

func (m *Manager) remember(s state) {
	s.Backends, s.Cgroups = maps.Clone(s.Backends), maps.Clone(s.Cgroups)
	m.last = &s
}

// newer tells whether memory is ahead of what the file says: it could not be
// written, and nobody else has written it since.
func (m *Manager) newer(file state) bool {
	return m.lost && m.last != nil && m.saved != nil && sameJSON(file, *m.saved)
}

// effective is the config with the workloads marked that are gone around.
func (m *Manager) effective(c *Config) Config {
	if c == nil {
		return Config{}
	}
	out := c.clone()
	for i := range out.Workloads {
		w := &out.Workloads[i]
		w.down = w.Bypass && m.down[w.Name]
	}
	return out
}

func (m *Manager) wake() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// spaces are the namespaces of the record and of the config.
func spaces(s *state, c Config) []string {
	all := c.namespaces()
	for netns := range s.Backends {
		if !slices.Contains(all, netns) {
			all = append(all, netns)
		}
	}
	slices.Sort(all)
	return all
}
