// Package ucum reads units of the Unified Code for Units of Measure and converts between them
// exactly.
//
// Parse reads a code in the case-sensitive form that FHIR uses (system
// http://unitsofmeasure.org): prefixes, products, quotients, exponents, numbers, parentheses and
// annotations. A Unit is a vector of dimensions and an exact rational factor; two units convert
// into one another if their dimensions are equal. What UCUM does not define, Parse refuses; what
// does not convert, Convert and Compare refuse with ErrIncomparable.
//
// All arithmetic is of rational numbers, so that Compare never errs by a rounding. Only where a
// decimal is asked for and none equals the result (a third of a metre) it is rounded.
//
// Some units convert more narrowly than UCUM's own table would have it, because patients' data
// hang on it: arbitrary units ([IU], [arb'U], ...) each convert to themselves alone; so do units
// on a logarithmic or another bent scale (pH, B, Np, ...); and mol, eq and osm are dimensions,
// not numbers, so an equivalent is no mole. Temperatures convert with their offsets, but
// make no products. Annotations have no meaning, as UCUM says: {score} is 1, and
// mL/min/{1.73_m2} is mL/min.
//
// A code, its exponents, its nesting and the digits of factors and values are bounded; the price
// of every call is. Units are immutable and may be shared by goroutines.
//
// Start reading at unit.go, then parse.go (the grammar), convert.go and table.go.
package ucum
