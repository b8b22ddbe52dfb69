package envoy

import "syscall"

// attributes puts Envoy into a process group of its own, so that a terminal's
// interrupt reaches only kerege, which then drains it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
