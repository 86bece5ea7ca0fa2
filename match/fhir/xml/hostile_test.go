package xml

import (
	"runtime"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Documents that are made to cost much cost memory in proportion to their length.
func TestHostileDocumentsCostNoMoreThanTheirLength(t *testing.T) {
	const size = 1 << 20
	fill := func(head, part, tail string) string {
		return head + strings.Repeat(part, (size-len(head)-len(tail))/len(part)) + tail
	}
	const patient, end, xhtml = `<Patient xmlns="http://hl7.org/fhir">`, `</Patient>`, `xmlns="http://www.w3.org/1999/xhtml"`
	for name, doc := range map[string]string{
		"tiny elements":            fill(patient, `<name/>`, end),
		"elements in no order":     fill(patient, `<name/><contact/>`, end),
		"tiny primitives":          fill(patient+`<name>`, `<given id=""/>`, `</name>`+end),
		"narratives":               fill(patient, `<contained><Patient><text><div `+xhtml+`/></text></Patient></contained>`, end),
		"prefixes to strip":        fill(`<Patient xmlns="http://hl7.org/fhir" xmlns:h="http://www.w3.org/1999/xhtml"><text><h:div>`, `<h:p/>`, `</h:div></text></Patient>`),
		"declarations":             fill(patient+`<text><div `+xhtml+`>`, `<p xmlns:a="urn:a"/>`, `</div></text>`+end),
		"what JSON escapes":        fill(patient+`<language value='`, `"`, `'/>`+end),
		"references":               fill(patient+`<language value="`, `&#1;`, `"/>`+end),
		"comments":                 fill(patient, `<!---->`, end),
		"instructions":             fill(patient, `<?a?>`, end),
		"elements that never end":  fill(patient, `<name>`, ``),
		"a tag that never ends":    fill(`<Patient `, `a`, ``),
		"a value that never ends":  fill(`<Patient a="`, `a`, ``),
		"a name that never ends":   fill(`<`, `a`, ``),
		"references without end":   fill(patient+`<language value="`, `&amp`, `"/>`+end),
		"attributes":               fill(patient, `<name id=""/>`, end),
		"divs within one another":  fill(patient+`<text>`, `<div `+xhtml+`>`, ``),
		"end tags of what is open": fill(patient, `</name>`, end),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			json, err := Unmarshal(fhir.R4, []byte(doc))
			runtime.ReadMemStats(&after)
			if err != nil && fhir.AsError(err) == nil {
				t.Errorf("no *fhir.Error: %v", err)
			}
			if used := (after.TotalAlloc - before.TotalAlloc) / size; used > 48 {
				t.Errorf("%d times its length were allocated", used)
			}
			if len(json) > 5*len(doc)/2 {
				t.Errorf("%d bytes became %d", len(doc), len(json))
			}
		})
	}
}
