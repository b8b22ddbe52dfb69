package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"github.com/vishvananda/netns"
)

// errGone says that a network namespace is no more, and its rules with it.
var errGone = errors.New("the network namespace is not there (any more)")

// InNamespace runs do on a thread that is in the network namespace at path
// ("" is the caller's own), and so what do starts there. The thread ends with
// it: nothing else ever runs in the wrong namespace.
func InNamespace(path string, do func() error) error {
	if path == "" {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime then ends the thread
		done <- func() error {
			handle, err := netns.GetFromPath(path)
			if errors.Is(err, fs.ErrNotExist) {
				return errGone
			}
			if err != nil {
				return fmt.Errorf("opening network namespace %s: %w", path, err)
			}
			defer handle.Close()
			err = netns.Set(handle)
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("entering network namespace %s: not permitted: the agent needs CAP_SYS_ADMIN for it, and RestrictNamespaces=net, which the drop-in kerege-agent-netns.conf gives its unit", path)
			}
			if err != nil {
				return fmt.Errorf("entering network namespace %s: %w", path, err)
			}
			return do()
		}()
	}()
	return <-done
}
