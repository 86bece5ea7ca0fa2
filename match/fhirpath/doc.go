// Package fhirpath compiles and evaluates FHIRPath (N1, normative release 2.0, with the functions of
// the 3.0 draft that HL7's tests use) over resources of FHIR R4, R4B and R5.
//
// Compile reads an expression once, checks it against the types of a FHIR version, and makes
// closures of it. An Expression is immutable and may be used by any number of workers; each
// worker keeps an Evaluator, whose memory is used again, so that an evaluation in steady state
// allocates nothing. Evaluation works on the nodes of json.Tree: nothing is decoded, numbers keep
// their digits, and primitives their extensions.
//
// Nothing is fetched: resolve() finds what is contained or in the same Bundle, and knows of
// everything else its type alone. Functions that need a terminology server, profiles or other
// resources are refused when the expression is compiled, as is every unknown name.
//
// Time and memory of an evaluation are bounded by counting steps, items and produced text, never
// by the clock, so every node decides the same. What exceeds them is ErrTooCostly. Errors name
// positions and rules, never a value of a resource.
//
// DESIGN.md tells how it works and which choices it makes. Start reading at fhirpath.go, then
// parser.go, compile.go and machine.go.
package fhirpath
