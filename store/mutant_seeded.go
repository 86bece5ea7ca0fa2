//go:build mutant

package store

import (
	"os"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// mutant reports whether a seeded bug is switched on, by its name in E2E_MUTANT.
func mutant(name string) bool { return os.Getenv("E2E_MUTANT") == name }

// sinceStart is what number-from-memory counts by.
var sinceStart = map[record.Sequence]fhir.EventNumber{}

// counted is the number of matches of a birth so far: as the projection has it, or, where that
// bug is seeded, since the process started. The fold of MATCHES is its only caller.
func counted(birth record.Sequence, stored fhir.EventNumber) fhir.EventNumber {
	if !mutant("number-from-memory") {
		return stored
	}
	sinceStart[birth]++
	return sinceStart[birth] - 1
}
