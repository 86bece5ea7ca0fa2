//go:build mutant

package match

import "os"

// mutant reports whether a seeded bug is switched on, by its name in E2E_MUTANT.
func mutant(name string) bool { return os.Getenv("E2E_MUTANT") == name }
