// Package search decides whether a resource meets a classic FHIR search criteria, such as
// Observation?code=http://loinc.org|718-7&value-quantity=gt5.4.
//
// Definitions know the resource types and search parameters of FHIR R4, reduced by a generator
// from HL7's own definitions to paths of member names. Compile turns a criteria's text into
// Criteria and refuses whatever it does not understand: a condition that was ignored would
// notify of resources that nobody asked for. A Resource is a parsed body whose values are read
// once, when the first criteria asks for them. Criteria.Match compares the two; Explain does
// the same and says what it looked at; Access tells an index under which values a criteria can
// be found, and Resource.Tokens which of them a resource has.
//
// What a criteria means follows the search page of FHIR R4 (http://hl7.org/fhir/R4/search.html,
// its sections are quoted as "R4 3.1.1.4.x"). Where that page leaves a choice, DESIGN.md says
// what was chosen. Matching takes no clock, no network and no other resource, so every node
// decides the same.
//
// Criteria and Definitions are immutable and shared; a Resource belongs to one worker, which
// uses it for one body after another without allocating.
//
// Start reading at criteria.go (what is decided), then compile.go (how a text becomes it),
// values.go (how a resource is read), and one file for each kind of parameter: token.go,
// text.go, reference.go, date.go, number.go.
package search
