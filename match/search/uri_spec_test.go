package search

import "testing"

// The section on uri of R4's search page (3.1.1.4.9) and the modifiers of R5's (3.2.1.5.5).
func TestURIsAsTheSpecificationSays(t *testing.T) {
	d := local()
	valueSet := func(url string) string { return `ValueSet{"url":"` + url + `"}` }
	holds(t, d, []rule{
		{"R4 3.1.1.4.9, first example: the whole URL", valueSet("http://acme.org/fhir/ValueSet/123"),
			"url=http://acme.org/fhir/ValueSet/123\nurl=x,http://acme.org/fhir/ValueSet/123", "url=http://acme.org/fhir/ValueSet/12\nurl=http://acme.org/fhir/ValueSet/123/\nurl=http://acme.org/fhir/ValueSet"},
		{"R4 3.1.1.4.9: case and accents count", valueSet("http://acme.org/fhir/ValueSet/123"), "", "url=http://Acme.org/fhir/ValueSet/123"},
		{"R4 3.1.1.4.9, second example: :below", valueSet("http://acme.org/fhir/ValueSet/123"),
			"url:below=http://acme.org/fhir/\nurl:below=http://acme.org/fhir\nurl:below=http://acme.org\nurl:below=http://acme.org/fhir/ValueSet/123\nurl:below=http://x.org,http://acme.org",
			"url:below=http://acme.org/fhir/ValueSet/12\nurl:below=http://acme.or\nurl:below=http://acme.org/fhir/ValueSet/123/4\nurl:below=https://acme.org"},
		{"R4 3.1.1.4.9, third example: :above", valueSet("http://acme.org/fhir/ValueSet/123"),
			"url:above=http://acme.org/fhir/ValueSet/123/_history/5\nurl:above=http://acme.org/fhir/ValueSet/123", "url:above=http://acme.org/fhir/ValueSet/1234\nurl:above=http://acme.org/fhir/ValueSet\nurl:above=http://acme.org/fhir/ValueSet/12/3"},
		{"R4 3.1.1.4.9: a slash at the end makes no other path", valueSet("http://acme.org/fhir/"), "url:above=http://acme.org/fhir/ValueSet\nurl:above=http://acme.org/fhir\nurl:below=http://acme.org/fhir", "url:above=http://acme.org/fhirs"},
		{"R4 3.1.1.4.9: what is no URL is above nothing", valueSet("http:"), "", "url:above=http://acme.org/fhir"},
		{"R5 below: full match, child, descendant", valueSet("http://acme.org/fhir"), "url:below=http://acme.org/fhir\nurl:above=http://acme.org/fhir/ValueSet/123", "url:below=http://acme.org/fhir/ValueSet"},
		{"R4 3.1.1.4.9, fourth example: a URN is compared whole", valueSet("urn:oid:1.2.3.4.5"), "url=urn:oid:1.2.3.4.5", "url=urn:oid:1.2.3.4\nurl:below=http://acme.org\nurl:above=urn://a/b"},
		{"R5 contains: anywhere in the URI, without case", valueSet("http://acme.org/fhir/ValueSet/Example-1"), "url:contains=example\nurl:contains=ACME.org/f\nurl:contains=x,set", "url:contains=examples"},
		{"a query or a fragment divides like a segment", `Patient{"meta":{"source":"http://acme.org/feed#4711"}}`,
			"_source=http://acme.org/feed%234711\n_source:below=http://acme.org/feed\n_source:contains=4711\n_source:missing=false", "_source=http://acme.org/feed\n_source:below=http://acme.org/fee"},
		{"R4 search, _profile: a uri, with any version unless one is named", `Patient{"meta":{"profile":["http://acme.org/p|1.0","http://acme.org/q"]}}`,
			"_profile=http://acme.org/p\n_profile=http://acme.org/p|1.0\n_profile:below=http://acme.org\n_profile:missing=false\n_profile:contains=/Q\n_profile=http://acme.org/q&_profile=http://acme.org/p",
			"_profile=http://acme.org/p|1\n_profile:missing=true\n_profile:below=http://acme.org/p/q"},
		{"R5 missing", `ValueSet{}`, "url:missing=true", "url:missing=false\nurl=http://x\nurl:contains=x"},
	})
	refuses(t, d, []refuse{
		{"R4 3.1.1.4.9: :below cannot be used with URNs", "ValueSet?url:below=urn:oid:1.2.3", "path of a URL"},
		{"R4 3.1.1.4.9: :above cannot be used with URNs", "ValueSet?url:above=urn:oid:1.2.3", "path of a URL"},
		{"R4 3.1.1.4.9: a version is no path", "Patient?_profile:below=http://acme.org/p|1", "version behind the |"},
		{"R4 3.1.1.4.4: a modifier of another type", "ValueSet?url:exact=a", `modifier "exact"`},
	})
}
