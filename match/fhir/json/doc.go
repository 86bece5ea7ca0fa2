// Package json reads resources strictly and keeps them as a tree over the bytes they came in.
//
// A Tree is one slice of small nodes without pointers; text stays in the input and is
// unescaped only when somebody asks for it. A worker keeps one Tree and parses document after
// document into it, so that in steady state a resource of a kilobyte costs a few microseconds
// and no allocation. Who reads one document and forgets it takes a Tree with Borrow and gives it
// back with Release.
//
// Strict means RFC 8259 with nothing left to the reader's discretion: UTF-8 without a byte
// order mark, no lone surrogates, no key twice in an object (however it is escaped), nothing
// after the document, and bounds on depth and size. What this package accepts, encoding/json
// accepts too and reads in the same way. Numbers are kept as they were written, because in
// FHIR 1.0 and 1 differ in precision.
//
// Bodies pass through Carillon byte for byte. Splice and SetString change single values in the
// text and leave every other byte alone; ContentHash says whether two bodies mean the same.
//
// Health data goes through here: errors name a position and a rule, never a key or a value.
//
// Start reading at tree.go, then parse.go.
package json
