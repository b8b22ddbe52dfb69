package envoy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	cgroupv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/cgroup_memory/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Limits is what an Envoy may use of its host.
type Limits struct {
	Cgroup      bool   // measured and limited by the cgroup whose files Envoy finds at /sys/fs/cgroup
	Heap        uint64 // bytes, where not
	Connections uint32 // from outside and from the application together
}

// wantedFiles is how many descriptors an Envoy asks for.
const wantedFiles = 65536

// Detect reads what this host and this process's cgroup and limits allow. It
// raises the soft limit of open files, which Envoy inherits, as far as it may.
func Detect() (Limits, error) {
	var out Limits
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return out, fmt.Errorf("reading the limit of open files: %w", err)
	}
	files.Cur = min(files.Max, wantedFiles)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return out, fmt.Errorf("raising the limit of open files to %d: %w", files.Cur, err)
	}
	out.Connections = connectionsFor(files.Cur)
	if readNumber("/sys/fs/cgroup/memory.max") > 0 && readNumber("/sys/fs/cgroup/memory.current") > 0 {
		out.Cgroup = true
		return out, nil
	}
	total, err := memory("/proc/meminfo")
	if err != nil {
		return out, err
	}
	out.Heap = total / 2
	if limit := ownCgroupLimit("/proc/self/cgroup", "/sys/fs/cgroup"); limit > 0 {
		out.Heap = min(out.Heap, limit)
	}
	return out, nil
}

// connectionsFor keeps under half of the descriptors: each connection has another
// one behind it, and Envoy needs some for itself.
func connectionsFor(files uint64) uint32 {
	return uint32(max(files/2-min(files/8, 64), 1))
}

func readNumber(path string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0 // "max"
	}
	return n
}

// ownCgroupLimit is the memory limit of this process's cgroup (version 2), 0 if
// there is none or none to read.
func ownCgroupLimit(self, root string) uint64 {
	text, err := os.ReadFile(self)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return readNumber(filepath.Join(root, path, "memory.max"))
		}
	}
	return 0
}

// memory is the host's, in bytes.
func memory(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading the host's memory: %w", err)
	}
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == "MemTotal:" {
			kib, err := strconv.ParseUint(string(f[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("reading the host's memory: %s has no MemTotal", path)
}

// overload sheds load before the kernel kills.
func overload(l Limits) *overloadv3.OverloadManager {
	memory := monitor("envoy.resource_monitors.fixed_heap", &heapv3.FixedHeapConfig{MaxHeapSizeBytes: l.Heap})
	if l.Cgroup {
		memory = monitor("envoy.resource_monitors.cgroup_memory", &cgroupv3.CgroupMemoryConfig{})
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{
			memory,
			monitor("envoy.resource_monitors.global_downstream_max_connections", &connectionsv3.DownstreamConnectionsConfig{
				MaxActiveDownstreamConnections: int64(l.Connections),
			}),
		},
		Actions: []*overloadv3.OverloadAction{
			action("envoy.overload_actions.disable_http_keepalive", memory.Name, 0.92),
			action("envoy.overload_actions.stop_accepting_connections", memory.Name, 0.95),
		},
	}
}

func monitor(name string, m proto.Message) *overloadv3.ResourceMonitor {
	return &overloadv3.ResourceMonitor{Name: name, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: typed(m)}}
}

func action(name, monitor string, at float64) *overloadv3.OverloadAction {
	return &overloadv3.OverloadAction{Name: name, Triggers: []*overloadv3.Trigger{{
		Name:         monitor,
		TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: at}},
	}}}
}
