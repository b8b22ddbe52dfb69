package envoy

import "syscall"

// attributes puts Envoy into a process group of its own, so that a terminal's
// interrupt reaches only kerege, which then drains it; and has it killed when
// kerege is.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
