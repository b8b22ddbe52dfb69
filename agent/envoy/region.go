package envoy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// region is what the Envoys of one launcher share so that one can take over from
// another: memory by the name of a base id, and sockets in the proxy's folder.
type region struct {
	dir  string // the proxy's
	shm  string // where the kernel keeps shared memory by name
	base uint32
}

// What Envoy makes of a base id, and of the sockets' path that it is given. The
// path is relative to its working folder, so that it fits into any run_dir.
const (
	sharedMemory  = "/dev/shm"
	sharedName    = "envoy_shared_memory_"
	baseFile      = "base-id"
	restartSocket = "hot"
)

// openRegion chooses a base id that no other Envoy of this host has, after it has
// taken away what a launcher that was killed has left.
func openRegion(dir, shm string) (*region, error) {
	r := &region{dir: dir, shm: shm}
	if text, err := os.ReadFile(filepath.Join(dir, baseFile)); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 28); err == nil {
			r.base = uint32(n)
			r.close()
		}
	}
	for range 10 {
		r.base = 1 + rand.Uint32N(1<<28-1) // Envoy multiplies it by ten
		f, err := os.OpenFile(r.memory(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("making shared memory for Envoy: %w", err)
		}
		f.Close()
		_ = os.Remove(filepath.Join(dir, baseFile)) // it may be of the user that the proxy ran as before
		if err := os.WriteFile(filepath.Join(dir, baseFile), []byte(r.id()+"\n"), 0o600); err != nil {
			os.Remove(r.memory())
			return nil, fmt.Errorf("writing Envoy's base id: %w", err)
		}
		return r, nil
	}
	return nil, fmt.Errorf("making shared memory for Envoy: no free name in %s", shm)
}

func (r *region) id() string { return strconv.FormatUint(uint64(r.base), 10) }

func (r *region) memory() string { return filepath.Join(r.shm, sharedName+r.id()+"0") }

// close takes everything away, after the last Envoy has ended.
func (r *region) close() {
	sockets, _ := filepath.Glob(filepath.Join(r.dir, restartSocket+"_*"))
	for _, path := range append(sockets, r.memory(), filepath.Join(r.dir, baseFile)) {
		_ = os.Remove(path) // what stays is taken away by the next launcher
	}
}

// args are Envoy's, for one that takes over from the one of the epoch before.
func (r *region) args(epoch int) []string {
	return []string{
		"--base-id", r.id(), "--restart-epoch", strconv.Itoa(epoch),
		// A socket of its user alone, not one that everybody on the host may speak to.
		"--socket-path", restartSocket, "--socket-mode", "600",
		// Each counts what it does: gauges of the one before would be old ones.
		"--skip-hot-restart-parent-stats",
	}
}

// How the memory of Envoy's hot restart, version 11, is laid out.
const (
	regionSize    = 104
	regionVersion = 11
	versionAt     = 8
	flagsAt       = 96
	initializing  = 1
)

// settle takes back the mark that an Envoy makes while it starts, when it has died
// meanwhile: with it no other one could take over any more.
func (r *region) settle() error {
	f, err := os.OpenFile(r.memory(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening Envoy's shared memory: %w", err)
	}
	defer f.Close()
	var b [regionSize + 1]byte
	n, _ := f.ReadAt(b[:], 0)
	if n != regionSize || binary.NativeEndian.Uint64(b[:]) != regionSize || binary.NativeEndian.Uint64(b[versionAt:]) != regionVersion {
		return fmt.Errorf("reading Envoy's shared memory: %d bytes of a version that is not %d", n, regionVersion)
	}
	flags := binary.NativeEndian.Uint64(b[flagsAt:])
	if flags&initializing == 0 {
		return nil
	}
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, flags&^uint64(initializing)), flagsAt); err != nil {
		return fmt.Errorf("writing Envoy's shared memory: %w", err)
	}
	return nil
}
