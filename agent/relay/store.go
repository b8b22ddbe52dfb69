package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/xds/delta"
)

const (
	storeVersion = 1
	// saveEvery bounds how often a proxy's file is written.
	saveEvery = time.Second
	// touchEvery is how often a file that is still right gets a new time.
	touchEvery = time.Minute
)

// about is what a file says besides the resources.
type about struct {
	Envoy string `json:"envoy,omitempty"` // version of the Envoy that was last here
}

// store is a proxy's file: its last accepted resources.
type store struct {
	path string
	kind string
	key  seal.Key
}

func newStore(path, id string, key seal.Key) store {
	return store{path: path, kind: "resources:" + id, key: key}
}

func (s store) save(set *delta.Set, a about) error {
	meta, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("saving resources: %w", err)
	}
	m := &discovery.DeltaDiscoveryResponse{SystemVersionInfo: string(meta)}
	for _, g := range set.Groups {
		for _, r := range g.Resources {
			m.Resources = append(m.Resources, &discovery.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
		}
	}
	plain, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("saving resources: %w", err)
	}
	return s.key.Write(s.path, s.kind, storeVersion, plain)
}

// load reads the file. Nothing there: no resources and no error. saved is when
// it was last known to be right.
func (s store) load() (rs []*delta.Resource, a about, saved time.Time, err error) {
	plain, _, err := s.key.Read(s.path, s.kind, storeVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, about{}, time.Time{}, nil
	}
	if err != nil {
		return nil, about{}, time.Time{}, err
	}
	m := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(plain, m); err != nil {
		return nil, about{}, time.Time{}, fmt.Errorf("%s is %w: its resources cannot be decoded", s.path, seal.ErrUnusable)
	}
	if err := json.Unmarshal([]byte(m.GetSystemVersionInfo()), &a); err != nil {
		return nil, about{}, time.Time{}, fmt.Errorf("%s is %w: its description cannot be decoded", s.path, seal.ErrUnusable)
	}
	for _, r := range m.GetResources() {
		rs = append(rs, resource(r.GetResource().GetTypeUrl(), r))
	}
	if info, err := os.Stat(s.path); err == nil {
		saved = info.ModTime()
	}
	return rs, a, saved, nil
}

// touch says that the file is right as it is.
func (s store) touch(now time.Time) error { return os.Chtimes(s.path, now, now) }

// resource is what came over a wire or from disk, with its sender's version.
func resource(typ string, r *discovery.Resource) *delta.Resource {
	return &delta.Resource{Type: typ, Name: r.GetName(), Version: r.GetVersion(), Body: r.GetResource()}
}
