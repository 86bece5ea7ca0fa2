//go:build !unix

package command

import "os/exec"

// ownGroup: there are no process groups here; the process alone is killed.
func ownGroup(*exec.Cmd) {}

func killGroup(*exec.Cmd) {}
