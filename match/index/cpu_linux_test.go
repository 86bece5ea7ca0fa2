package index_test

import (
	"syscall"
	"time"
)

// cpu is the time that this process has computed: on a machine with other work the time on the
// wall says little.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
