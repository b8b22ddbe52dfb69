package lab

import "runtime"

func runStarter(work <-chan func()) {
	runtime.LockOSThread()
	for f := range work {
		f()
	}
}
