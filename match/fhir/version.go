package fhir

import "slices"

// Version names a version of FHIR. Resources, criteria and expressions belong to one; what is
// compiled for one says nothing about resources of another.
type Version string

// The versions that are known here: 4.0.1, 4.3.0 and 5.0.0.
const (
	R4  Version = "R4"
	R4B Version = "R4B"
	R5  Version = "R5"
)

// Versions lists them, the oldest first.
func Versions() []Version { return []Version{R4, R4B, R5} }

// Known reports whether v is one of Versions.
func (v Version) Known() bool { return slices.Contains(Versions(), v) }

// Number is the version as the standard numbers it, such as 4.0.1. Without a version it is R4's.
func (v Version) Number() string {
	switch v {
	case R4B:
		return "4.3.0"
	case R5:
		return "5.0.0"
	}
	return "4.0.1"
}
