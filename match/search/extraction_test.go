package search

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	stdjson "encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/fhirpath"
	"github.com/carillon-fhir/carillon/match/search/internal/paths"
)

// officialParameters reads what HL7 publishes.
func officialParameters(t testing.TB, v fhir.Version) []searchParameter {
	t.Helper()
	f, err := os.Open("definitions/search-parameters-" + strings.ToLower(string(v)) + ".json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var bundle struct {
		Entry []struct{ Resource searchParameter }
	}
	if err := stdjson.NewDecoder(z).Decode(&bundle); err != nil {
		t.Fatal(err)
	}
	var out []searchParameter
	for _, e := range bundle.Entry {
		out = append(out, e.Resource)
	}
	return out
}

// meant are official expressions that are not read as they stand, with what is read instead.
var meant = map[string]string{
	"value.as(DateTime) | value.as(Period)":         "value.as(dateTime) | value.as(Period)", // the type is dateTime
	"Ingredient.manufacturer":                       "Ingredient.manufacturer.manufacturer",  // R4B: the element that holds the reference
	"location.reference":                            "location",                              // R5 Encounter: Location is the reference
	"specification.ofType(CodeableConcept)":         "conformsTo.specification",              // R5 Device has it below conformsTo
	"version.ofType(string)":                        "version.value",                         // likewise
	"Observation.value.ofType(canonical)":           "{}",                                    // R5: the choice has no such type yet
	"Observation.component.value.ofType(canonical)": "{}",
	"Observation.value.ofType(markdown) | Observation.value.ofType(CodeableConcept).text": "Observation.value.ofType(CodeableConcept).text",
}

// hasExtension is a function that FHIRPath does not have.
var hasExtension = regexp.MustCompile(`hasExtension\(('[^']*')\)`)

// general gives an official parameter as the general engine reads it: its values have a place of
// their own.
func general(t testing.TB, m *model.Model, typ, node string, p *param, expr string) *param {
	t.Helper()
	if instead, ok := meant[expr]; ok {
		expr = instead
	}
	if strings.HasSuffix(expr, "')") && strings.Contains(expr, ".extension('") && !strings.Contains(expr, "|") {
		expr += ".value" // an expression that stops at an extension means its value
	}
	expr = hasExtension.ReplaceAllString(expr, "extension($1).exists()")
	compiled, err := fhirpath.Compile(expr, fhirpath.Options{Version: m.Version(), Context: node, AsFilters: true})
	if err != nil {
		t.Fatalf("%s of %s: %v", p.code, typ, err)
	}
	q := *p
	q.paths, q.first = nil, false
	q.expression = &expression{compiled: compiled, model: m, kind: p.kind.String()}
	return &q
}

// pair is one parameter read in both ways.
type pair struct{ path, general *param }

// pairs gives every official parameter of a type that has an expression for it.
func pairs(t testing.TB, v fhir.Version) map[string][]pair {
	d, m := For(v), model.For(v)
	official := officialParameters(t, v)
	kindOf := map[string]string{}
	for _, sp := range official {
		kindOf[sp.URL] = sp.Type
	}
	out := map[string][]pair{}
	for _, name := range d.names {
		def := d.types[name]
		next := def.family.count
		for _, sp := range official {
			p := def.params[sp.Code]
			if sp.Expression == "" || p == nil || p.paths == nil || p.index >= def.family.count ||
				!slices.ContainsFunc(sp.Base, func(b string) bool { return paths.Is(m, m.Type(name), b) }) {
				continue
			}
			q := general(t, m, name, name, p, sp.Expression)
			if p.kind == kindComposite {
				node := "" // of several types: found out at each
				if types, ok := q.expression.compiled.Types(); ok && len(types) == 1 {
					node = types[0]
				}
				q.parts = nil
				for i, c := range sp.Component {
					q.parts = append(q.parts, general(t, m, name, node, p.parts[i], c.Expression))
				}
			}
			q.index = next
			next++
			out[name] = append(out[name], pair{p, q})
		}
	}
	return out
}

// read gives what a resource has for a parameter, as a set of texts.
func read(r *Resource, p *param) (values []string, present, fault bool) {
	s := r.valuesAs(p, p.view)
	c := &condition{param: p, view: p.view, wants: nothingElse}
	for i := s.from; i < s.to; {
		step := int32(max(1, len(p.parts)))
		if p.view != viewElement {
			step = s.to - s.from
		}
		values = append(values, c.found(r, &slot{from: i, to: i + step})...)
		i += step
	}
	switch p.kind {
	case kindNumber, kindQuantity: // by value: a union takes 1.0 and 1.00 for one
		values = values[:0]
		for _, a := range r.amounts[s.from:s.to] {
			values = append(values, fmt.Sprint(plain(a.lo), a.noLo, a.overLo, plain(a.hi), a.noHi, a.belowHi, string(a.system), string(a.code), string(a.unit)))
		}
	case kindReference:
		for i := s.from; i < s.to; i++ {
			values = append(values, "identifier "+r.references[i].identifier.text())
		}
	}
	slices.Sort(values)
	return slices.Compact(values), s.present, s.fault
}

func plain(d decimal) string {
	n, _ := new(apd.Decimal).Reduce(d.apd())
	return n.String()
}

// compare reads every parameter of a resource in both ways and counts those that have values.
func compare(t *testing.T, r *Resource, list []pair, seen map[*param]int) {
	t.Helper()
	for _, x := range list {
		got, present, _ := read(r, x.path)
		want, expected, fault := read(r, x.general)
		if fault || present != expected || !slices.Equal(got, want) {
			t.Errorf("%s %s?%s of %s: paths give %q (%v), the expression %s gives %q (%v, failed %v)", r.definitions.version, r.Type(), x.path.code, r.ID(),
				got, present, x.general.expression.compiled, want, expected, fault)
		}
		if len(got) > 0 {
			seen[x.path]++
		}
	}
}

// Over all sample resources, what paths read is what FHIRPath gives for the official expression.
func TestExtractionIsWhatTheExpressionSays(t *testing.T) {
	all := samples(t)
	for _, v := range fhir.Versions() {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			d, both, seen := For(v), pairs(t, v), map[*param]int{}
			var tree json.Tree
			r := NewResource(d, nil)
			n := 0
			for i, line := range all {
				if testing.Short() && i%20 > 0 {
					continue
				}
				if err := tree.Parse(line, json.Limits{}); err != nil {
					t.Fatal(err)
				}
				r.Reset(&tree, Envelope{})
				if list := both[r.Type()]; list != nil {
					compare(t, r, list, seen)
					n++
				}
				if t.Failed() {
					return // the first resource that differs is enough to read
				}
			}
			t.Logf("%d resources, %d parameters with a value", n, len(seen))
			if want := map[fhir.Version]int{fhir.R4: 500, fhir.R4B: 400, fhir.R5: 300}[v]; len(seen) < want && !testing.Short() {
				t.Errorf("only %d parameters had a value", len(seen))
			}
		})
	}
}

// samples gives all sample resources.
func samples(t testing.TB) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/all-r4.ndjson.bz2")
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	s := bufio.NewScanner(bzip2.NewReader(bytes.NewReader(data)))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		out = append(out, slices.Clone(s.Bytes()))
	}
	if s.Err() != nil || len(out) != 11_858 {
		t.Fatalf("%d resources: %v", len(out), s.Err())
	}
	return out
}
