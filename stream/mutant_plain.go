//go:build !mutant

package stream

// mutant reports whether a seeded bug is switched on. Only builds with the tag mutant have any;
// here the compiler leaves them out (see e2e/DESIGN.md, "Seeded bugs").
func mutant(string) bool { return false }

// syncInterval is when the engine syncs: before each acknowledgement.
const syncInterval = "always"
