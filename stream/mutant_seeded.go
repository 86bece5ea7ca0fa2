//go:build mutant

package stream

import "os"

// mutant reports whether a seeded bug is switched on, by its name in E2E_MUTANT.
func mutant(name string) bool { return os.Getenv("E2E_MUTANT") == name }

// syncInterval is when the engine syncs: before each acknowledgement, or after a while.
var syncInterval = map[bool]string{false: "always", true: `"1s"`}[mutant("ack-before-sync")]
