package payload_test

import (
	stdjson "encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/deliver/payload"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// A server that adds a prefix and one that strips it make a way there and back: whatever comes in
// goes out again, byte for byte.
func TestStrippingUndoesPrefixing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.StringMatching(`[A-Za-z0-9.-]{1,8}`).Draw(t, "prefix")
		add := shapeOf(t, fhir.ExtReplicatePrefix, prefix)
		strip := shapeOf(t, fhir.ExtReplicateStripPrefix, prefix)
		r := drawResource(t, prefix)
		there, err := add.Resource(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := strip.Resource(there)
		if err != nil {
			t.Fatal(err)
		}
		if back.Key != r.Key || string(back.Body) != string(r.Body) {
			t.Fatalf("%s came back as %s:\n%s\n%s\n%s", r.Key, back.Key, r.Body, there.Body, back.Body)
		}
		if there.Key.ID != fhir.ID(prefix)+r.Key.ID {
			t.Fatalf("%s was sent as %s", r.Key, there.Key)
		}
	})
}

func shapeOf(t *rapid.T, ext, value string) payload.Shape {
	s, err := fhir.ParseSubscription(fmt.Appendf(nil, `{"resourceType":"Subscription","extension":[{"url":%q,"valueBoolean":true},{"url":%q,"valueString":%q}]}`,
		fhir.ExtReplicate, ext, value))
	if err != nil {
		t.Fatal(err)
	}
	return payload.Of(s, fhir.R4)
}

// drawResource draws a List with references of all sorts, some of them to ids that begin with the
// prefix already.
func drawResource(t *rapid.T, prefix string) payload.Resource {
	id := rapid.Custom(func(t *rapid.T) string {
		s := rapid.StringMatching(`[A-Za-z0-9.-]{1,40}`).Draw(t, "id")
		if rapid.Bool().Draw(t, "prefixed") {
			return prefix + s
		}
		return s
	})
	ref := rapid.Custom(func(t *rapid.T) string {
		form := rapid.SampledFrom([]string{"Patient/%s", "Patient/%s/_history/3", "#%s", "urn:uuid:%s", "https://x.example/Patient/%s", "Patient?_id=%s", "Thing/%s", "%s", "Patient/%s/x", "Practitioner/%s#y"}).Draw(t, "form")
		return fmt.Sprintf(form, id.Draw(t, "of"))
	})
	entry := rapid.Custom(func(t *rapid.T) any {
		item := map[string]any{"reference": ref.Draw(t, "ref"), "display": rapid.String().Draw(t, "display")}
		switch rapid.IntRange(0, 2).Draw(t, "place") {
		case 0:
			return map[string]any{"item": item}
		case 1:
			return map[string]any{"item": map[string]any{"extension": []any{map[string]any{"url": "u", "valueReference": item}}}}
		}
		return map[string]any{"unknown": []any{item}}
	})
	own := id.Draw(t, "own")
	body, err := stdjson.Marshal(map[string]any{
		"resourceType": "List", "id": own,
		"contained": []any{map[string]any{"resourceType": "Patient", "id": id.Draw(t, "contained"), "managingOrganization": map[string]any{"reference": ref.Draw(t, "ref")}}},
		"entry":     rapid.SliceOfN(entry, 0, 8).Draw(t, "entries"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return payload.Resource{Key: fhir.Key{Type: "List", ID: fhir.ID(own)}, Body: body}
}

func FuzzShapesKeepDocumentsValid(f *testing.F) {
	f.Add([]byte(observation), "P-")
	f.Add([]byte(`{"resourceType":"Bundle","entry":[1,{"fullUrl":"Patient/1","resource":{"resourceType":"Patient","id":"1"}},[{}]]}`), "-")
	f.Add([]byte(`{"resourceType":1,"id":2,"meta":[],"contained":{"resourceType":"X","reference":""}}`), ".")
	f.Fuzz(func(t *testing.T, body []byte, prefix string) {
		s := asks(t, fhir.ExtReplicate, "true", fhir.ExtStripVersion, "true")
		if fhir.ID(prefix).Valid() && len(prefix) < 64 {
			s = asks(t, fhir.ExtReplicate, "true", fhir.ExtStripVersion, "true", fhir.ExtReplicatePrefix, prefix)
		}
		if !stdjson.Valid(body) {
			return
		}
		got, err := s.Resource(payload.Resource{Key: fhir.Key{Type: "Patient", ID: "1"}, Body: body})
		if err == nil && !stdjson.Valid(got.Body) {
			t.Errorf("%s became %s", body, got.Body)
		}
	})
}
