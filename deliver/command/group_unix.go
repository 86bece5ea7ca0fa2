//go:build unix

package command

import (
	"os/exec"
	"syscall"
)

// ownGroup starts a process as the leader of a group of its own, so that what it starts in turn
// can be ended with it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// killGroup ends what a process that has ended left running. The system gives its number to no
// other process while its group has members; where it has none the signal reaches nobody, since
// numbers are given out in a circle.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}
