// Package xml turns resources from FHIR's JSON into FHIR's XML and back.
//
// Both representations have the same meaning (FHIR R4 json.html, xml.html), and which element is
// where and of which type is known from match/fhir/model, never guessed. What is kept: the text
// of decimals (1.0 is not 1), ids and extensions of primitives, the order of repeating elements,
// and of a narrative every byte. What is not: the order of members in JSON, white space between
// elements, comments and processing instructions. XML is written in the order of the
// StructureDefinitions, and read in any order, as other servers do.
//
// What has no counterpart in the other representation is refused and never left out: an element
// that the version does not have, a second value of an element that does not repeat, text between
// elements, a control character that XML cannot carry. Values are not validated beyond what is
// needed to give them their JSON type. Null members and empty arrays say nothing and are left out.
//
// XML comes from strangers, so it is read by a scanner of our own that knows less than XML does:
// there is no document type and hence no entity but the five of XML itself, names are ASCII, and
// depth, attributes and namespaces are bounded. What it accepts, encoding/xml accepts too. Memory
// and time are linear in the input.
//
// Health data goes through here: an error is a *fhir.Error that names an element and a position,
// never a value.
//
// Start reading at marshal.go and unmarshal.go; shape.go holds what both know of the types,
// scan.go is the scanner, tree.go what is scanned, narrative.go the XHTML within.
package xml
