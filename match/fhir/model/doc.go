// Package model knows the types of each FHIR version: which elements a type has, of which types
// they are, whether they repeat, and what a reference may refer to.
//
// It is what a path or a FHIRPath expression is followed through before any resource is seen,
// so that meaning is never guessed from JSON. The tables come from HL7's StructureDefinitions;
// profiles and logical models are not in them. Each version is read at its first use, in about
// three milliseconds, and shared by everybody; nothing in it ever changes.
//
// Start reading at model.go.
package model
