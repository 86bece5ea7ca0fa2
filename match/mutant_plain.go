//go:build !mutant

package match

// mutant reports whether a seeded bug is switched on. Only builds with the tag mutant have any;
// here the compiler leaves them out (see e2e/DESIGN.md, "Seeded bugs").
func mutant(string) bool { return false }
