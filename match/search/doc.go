// Package search decides whether a resource meets a classic FHIR search criteria, such as
// Observation?code=http://loinc.org|718-7&value-quantity=gt5.4.
//
// Definitions know the resource types and search parameters of one FHIR version (R4, R4B, R5),
// reduced by a generator from HL7's own definitions to paths of member names, and those that
// SearchParameter resources add, see WithParameters. Compile turns a criteria's text into
// Criteria and refuses whatever it does not understand: a condition that was ignored would
// notify of resources that nobody asked for. A Resource is a parsed body whose values are read
// once, when the first criteria asks for them. Criteria.Match compares the two; Explain does
// the same and says what it looked at; Access tells an index under which values a criteria can
// be found, and Resource.Tokens which of them a resource has.
//
// What a criteria means follows the search page of FHIR R4 (http://hl7.org/fhir/R4/search.html,
// its sections are quoted as "R4 3.1.1.4.x"). Where that page leaves a choice, DESIGN.md says
// what was chosen. Matching takes no clock and no network, so every node decides the same. Other
// resources, which chains, _has and _list ask for, come from a Repository; one over the log shows
// them as they were at a place of it, and then every node decides the same there, too.
//
// Value sets and code hierarchies (:in, :not-in, :above, :below) are decided by a Terminology:
// the ValueSet and CodeSystem resources that the server stores. They are expanded when a
// criteria is compiled, and what cannot be expanded exactly is refused by name.
//
// Criteria and Definitions are immutable and shared; a Resource belongs to one worker, which
// uses it for one body after another without allocating.
//
// Start reading at criteria.go (what is decided), then compile.go (how a text becomes it),
// values.go (how a resource is read), and one file for each kind of parameter: token.go,
// text.go, uri.go, reference.go, date.go, number.go (and unit.go), near.go, area.go, narrative.go
// (full text), composite.go; filter.go has _filter. view.go has the modifiers that read something
// else of an element than its parameter does, and terminology.go with expansion.go, codesystem.go
// and codeset.go the sets of codes. Where parameters come from is in definitions.go and custom.go;
// internal/paths follows their expressions, and expression.go evaluates those that are more than
// paths. What is asked of other resources is in repository.go, chain.go, has.go and list.go.
package search
