package payload_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/deliver/payload"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// asks reads the shape of a Subscription with extensions, each "url suffix" and its string value.
func asks(t testing.TB, extensions ...string) payload.Shape {
	t.Helper()
	var list []string
	for i := 0; i < len(extensions); i += 2 {
		list = append(list, fmt.Sprintf(`{"url":%q,"valueString":%q}`, extensions[i], extensions[i+1]))
	}
	s, err := fhir.ParseSubscription([]byte(`{"resourceType":"Subscription","status":"active","criteria":"Patient?","channel":{"type":"rest-hook",
		"endpoint":"https://example.org","payload":"application/json","extension":[` + strings.Join(list, ",") + `]}}`))
	if err != nil {
		t.Fatal(err)
	}
	accept := func(string) error { return nil }
	if err := s.Validate(fhir.Rules{Compile: accept, CompilePath: func(_, _ string) error { return nil }}); err != nil {
		t.Fatal(err)
	}
	return payload.Of(s, fhir.R4)
}

func replicating(t testing.TB, extensions ...string) payload.Shape {
	t.Helper()
	return asks(t, append([]string{fhir.ExtReplicate, "true"}, extensions...)...)
}

const observation = `{ "resourceType" : "Observation","id":"3","meta":{"versionId":"7","lastUpdated":"2020-06-29T18:08:18.729-04:00","profile":["http://example.org/Observation/1"]},
	"text":{"status":"generated","div":"<div><a href=\"Patient/2\">x</a></div>"},
	"contained":[{"resourceType":"Device","id":"d","owner":{"reference":"Organization/9"},"patient":{"reference":"Patient/2"}}],
	"extension":[{"url":"http://example.org/x","valueReference":{"reference":"Patient/2"}},{"url":"http://example.org/y","valueCanonical":"Questionnaire/1"}],
	"subject":{"reference":"Patient/2","_reference":{"extension":[{"url":"u","valueReference":{"reference":"Group/5"}}]},"identifier":{"system":"Patient/2","value":"Patient/2","assigner":{"reference":"Organization/9"}},"display":"Patient/2"},
	"device":{"reference":"#d"},"encounter":{"reference":"Encounter/e-1/_history/4"},
	"performer":[{"reference":"https://other.example/fhir/Practitioner/1"},{"reference":"https://our.example/fhir/Practitioner/1"},{"reference":"urn:uuid:6a5be3a8-04d0-4c9a-b179-161fced75ab7"},{"reference":"Practitioner?identifier=a|1"},{"reference":"Nonsense/1"},{"reference":"Practitioner/1#role"}],
	"valueQuantity":{"value":1.50,"unit":"\u00b5g"}}`

// What is not written anew stays byte for byte, so the whole is compared after the replacements.
func TestReplicationWritesIDsAndReferencesAndNothingElse(t *testing.T) {
	prefixed := strings.NewReplacer(
		`"id":"3"`, `"id":"CDR1-3"`,
		`{"reference":"Organization/9"}`, `{"reference":"Organization/CDR1-9"}`,
		`{"reference":"Patient/2"`, `{"reference":"Patient/CDR1-2"`,
		`{"reference":"Group/5"}`, `{"reference":"Group/CDR1-5"}`,
		`Encounter/e-1/_history/4`, `Encounter/CDR1-e-1/_history/4`,
		`"Practitioner/1#role"`, `"Practitioner/CDR1-1#role"`,
	)
	stripped := strings.NewReplacer(
		`https://our.example/fhir/Practitioner/1`, `Practitioner/1`,
	)
	for _, test := range []struct {
		name  string
		shape payload.Shape
		want  string
		id    fhir.ID
	}{
		{"with nothing asked for", payload.Shape{}, observation, "3"},
		{"with the mode alone", replicating(t), observation, "3"},
		{"with a prefix", replicating(t, fhir.ExtReplicatePrefix, "CDR1-"), prefixed.Replace(observation), "CDR1-3"},
		{"with a prefix for ids of digits", replicating(t, fhir.ExtReplicatePrefix, "CDR1-", fhir.ExtReplicateSelector, "[a-zA-Z]+/[0-9]+"),
			strings.Replace(prefixed.Replace(observation), "Encounter/CDR1-e-1", "Encounter/e-1", 1), "CDR1-3"},
		{"with a prefix for one type", replicating(t, fhir.ExtReplicatePrefix, "CDR1-", fhir.ExtReplicateSelector, "Group/.*|Device/.*"),
			strings.Replace(observation, "Group/5", "Group/CDR1-5", 1), "3"},
		{"with a prefix to strip", replicating(t, fhir.ExtReplicateStripPrefix, "e-"),
			strings.Replace(observation, "Encounter/e-1", "Encounter/1", 1), "3"},
		{"with a base to strip", replicating(t, fhir.ExtReplicateStripBase, "HTTPS://our.example/fhir/"), stripped.Replace(observation), "3"},
		{"with a base to strip whose path is in capitals", replicating(t, fhir.ExtReplicateStripBase, "https://our.example/FHIR"), observation, "3"},
		{"with a base that is the beginning of another", replicating(t, fhir.ExtReplicateStripBase, "https://our.example/fh"), observation, "3"},
		{"with a base to strip and a prefix", replicating(t, fhir.ExtReplicateStripBase, "https://our.example/fhir", fhir.ExtReplicatePrefix, "CDR1-"),
			strings.Replace(prefixed.Replace(stripped.Replace(observation)), `"Practitioner/1"`, `"Practitioner/CDR1-1"`, 1), "CDR1-3"},
		{"with one prefix for another", replicating(t, fhir.ExtReplicateStripPrefix, "e-", fhir.ExtReplicatePrefix, "CDR1-"),
			strings.Replace(prefixed.Replace(observation), "CDR1-e-1", "CDR1-1", 1), "CDR1-3"},
		{"without its version", asks(t, fhir.ExtStripVersion, "true"), strings.Replace(observation, `"versionId":"7",`, ``, 1), "3"},
		{"without its version, and with a prefix", replicating(t, fhir.ExtReplicatePrefix, "CDR1-", fhir.ExtStripVersion, "true"),
			strings.Replace(prefixed.Replace(observation), `"versionId":"7",`, ``, 1), "CDR1-3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.shape.Resource(payload.Resource{Key: fhir.Key{Type: "Observation", ID: "3"}, Body: []byte(observation)})
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Body) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got.Body, test.want)
			}
			if got.Key != (fhir.Key{Type: "Observation", ID: test.id}) {
				t.Errorf("sent as %s", got.Key)
			}
		})
	}
}

// What is called reference is not always one, and what is not known to the model is taken by its looks.
func TestOnlyReferencesAreWritten(t *testing.T) {
	prefix := replicating(t, fhir.ExtReplicatePrefix, "P-")
	for _, test := range []struct{ name, body, want string }{
		{"the uri of an Expression", `{"resourceType":"Observation","id":"1","extension":[{"url":"u","valueExpression":{"language":"text/cql","reference":"Library/1"}}]}`,
			`{"resourceType":"Observation","id":"P-1","extension":[{"url":"u","valueExpression":{"language":"text/cql","reference":"Library/1"}}]}`},
		{"the uri of a DetectedIssue", `{"resourceType":"DetectedIssue","id":"1","reference":"Library/1","patient":{"reference":"Patient/1"}}`,
			`{"resourceType":"DetectedIssue","id":"P-1","reference":"Library/1","patient":{"reference":"Patient/P-1"}}`},
		{"a reference whose name is reference", `{"resourceType":"Consent","id":"1","provision":{"data":[{"meaning":"instance","reference":{"reference":"Patient/1"}}]}}`,
			`{"resourceType":"Consent","id":"P-1","provision":{"data":[{"meaning":"instance","reference":{"reference":"Patient/P-1"}}]}}`},
		{"canonical, url and uri", `{"resourceType":"MeasureReport","id":"1","measure":"Measure/1","evaluatedResource":[{"reference":"Patient/1"}]}`,
			`{"resourceType":"MeasureReport","id":"P-1","measure":"Measure/1","evaluatedResource":[{"reference":"Patient/P-1"}]}`},
		{"an attachment", `{"resourceType":"DocumentReference","id":"1","content":[{"attachment":{"url":"Binary/1"}}]}`,
			`{"resourceType":"DocumentReference","id":"P-1","content":[{"attachment":{"url":"Binary/1"}}]}`},
		{"the uri of an Expression beside a primitive", `{"resourceType":"Patient","id":"1","_birthDate":{"extension":[{"url":"u","valueExpression":{"reference":"Library/1"}},{"url":"u","valueReference":{"reference":"Patient/1"}}]}}`,
			`{"resourceType":"Patient","id":"P-1","_birthDate":{"extension":[{"url":"u","valueExpression":{"reference":"Library/1"}},{"url":"u","valueReference":{"reference":"Patient/P-1"}}]}}`},
		{"an element of no model", `{"resourceType":"Patient","id":"1","height":{"x":[{"reference":"Patient/1"}]}}`,
			`{"resourceType":"Patient","id":"P-1","height":{"x":[{"reference":"Patient/P-1"}]}}`},
		{"a text in escapes", `{"resourceType":"Patient","id":"1","link":[{"other":{"reference":"Patient\/1"}}]}`,
			`{"resourceType":"Patient","id":"P-1","link":[{"other":{"reference":"Patient/P-1"}}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			typ, _, _ := strings.Cut(strings.TrimPrefix(test.body, `{"resourceType":"`), `"`)
			got, err := prefix.Resource(payload.Resource{Key: fhir.Key{Type: typ, ID: "1"}, Body: []byte(test.body)})
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Body) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got.Body, test.want)
			}
		})
	}
}

func TestResourcesWithinResourcesAreWrittenToo(t *testing.T) {
	prefix := replicating(t, fhir.ExtReplicatePrefix, "P-", fhir.ExtReplicateStripBase, "https://strip.example")
	for _, test := range []struct{ name, body, want string }{
		{"the entries of a Bundle, with what leads to them",
			`{"resourceType":"Bundle","id":"b","type":"document","entry":[
				{"fullUrl":"https://our.example/fhir/Composition/1","resource":{"resourceType":"Composition","id":"1","subject":{"reference":"Patient/2"},"author":[{"reference":"https://our.example/fhir/Patient/2"},{"reference":"https://our.example/fhir/Patient/3"}]}},
				{"fullUrl":"https://our.example/fhir/Patient/2","resource":{"resourceType":"Patient","id":"2"},"request":{"method":"PUT","url":"Patient/2"}},
				{"fullUrl":"https://strip.example/Patient/4","resource":{"resourceType":"Patient","id":"4"},"request":{"method":"POST","url":"Patient"}},
				{"fullUrl":"urn:uuid:6a5be3a8-04d0-4c9a-b179-161fced75ab7","resource":{"resourceType":"Patient","id":"5"}}]}`,
			`{"resourceType":"Bundle","id":"P-b","type":"document","entry":[
				{"fullUrl":"https://our.example/fhir/Composition/P-1","resource":{"resourceType":"Composition","id":"P-1","subject":{"reference":"Patient/P-2"},"author":[{"reference":"https://our.example/fhir/Patient/P-2"},{"reference":"https://our.example/fhir/Patient/3"}]}},
				{"fullUrl":"https://our.example/fhir/Patient/P-2","resource":{"resourceType":"Patient","id":"P-2"},"request":{"method":"PUT","url":"Patient/P-2"}},
				{"fullUrl":"Patient/P-4","resource":{"resourceType":"Patient","id":"P-4"},"request":{"method":"POST","url":"Patient"}},
				{"fullUrl":"urn:uuid:6a5be3a8-04d0-4c9a-b179-161fced75ab7","resource":{"resourceType":"Patient","id":"P-5"}}]}`},
		{"the resources of Parameters",
			`{"resourceType":"Parameters","id":"b","parameter":[{"name":"x","part":[{"name":"y","resource":{"resourceType":"Patient","id":"2","link":[{"other":{"reference":"Patient/3"}}]}}]},{"name":"r","valueReference":{"reference":"Patient/4"}}]}`,
			`{"resourceType":"Parameters","id":"P-b","parameter":[{"name":"x","part":[{"name":"y","resource":{"resourceType":"Patient","id":"P-2","link":[{"other":{"reference":"Patient/P-3"}}]}}]},{"name":"r","valueReference":{"reference":"Patient/P-4"}}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			typ, _, _ := strings.Cut(strings.TrimPrefix(test.body, `{"resourceType":"`), `"`)
			got, err := prefix.Resource(payload.Resource{Key: fhir.Key{Type: typ, ID: "b"}, Body: []byte(test.body)})
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Body) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got.Body, test.want)
			}
		})
	}
}

func TestAnIDThatWouldBeNoneIsRefusedByName(t *testing.T) {
	long := strings.Repeat("x", 62)
	for _, test := range []struct {
		name, id, body string
		shape          payload.Shape
		says           string
	}{
		{"its own, too long", long, `{"resourceType":"Patient","id":"` + long + `"}`, replicating(t, fhir.ExtReplicatePrefix, "P--"), "Patient/" + long},
		{"of a reference, too long", "1", `{"resourceType":"Patient","id":"1","link":[{"other":{"reference":"Patient/` + long + `"}}]}`, replicating(t, fhir.ExtReplicatePrefix, "P--"), "65 characters"},
		{"nothing left of it", "P-", `{"resourceType":"Patient","id":"P-"}`, replicating(t, fhir.ExtReplicateStripPrefix, "P-"), "0 characters"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.shape.Resource(payload.Resource{Key: fhir.Key{Type: "Patient", ID: fhir.ID(test.id)}, Body: []byte(test.body)})
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestAMetaOfTheVersionAloneGoesWithIt(t *testing.T) {
	got, err := asks(t, fhir.ExtStripVersion, "true").Resource(payload.Resource{Key: fhir.Key{Type: "Patient", ID: "1"},
		Body: []byte(`{"resourceType":"Patient","id":"1","meta":{"versionId":"4"},"active":true}`)})
	if want := `{"resourceType":"Patient","id":"1","active":true}`; err != nil || string(got.Body) != want {
		t.Errorf("got %s, %v", got.Body, err)
	}
}

func TestATransactionPutsEachResourceUnderItsID(t *testing.T) {
	found := func() []payload.Resource {
		return []payload.Resource{
			{Key: fhir.Key{Type: "Observation", ID: "3"}, Body: []byte(`{"resourceType":"Observation","id":"3","meta":{"versionId":"1","lastUpdated":"2020-06-29T18:08:18.729-04:00"},"subject":{"reference":"Patient/2"},"valueQuantity":{"value":1.50}}`)},
			{Key: fhir.Key{Type: "Patient", ID: "2"}, Body: []byte(`{"resourceType":"Patient","id":"2","meta":{"versionId":"1","lastUpdated":"2020-06-29T18:08:18.701-04:00"},"active":true}`)},
		}
	}
	for _, test := range []struct {
		name  string
		shape payload.Shape
		want  string
	}{
		{"as it is", payload.Shape{}, `{"resourceType":"Bundle","id":"b1","type":"transaction","entry":[` +
			`{"fullUrl":"Observation/3/_history/1","resource":{"resourceType":"Observation","id":"3","meta":{"versionId":"1","lastUpdated":"2020-06-29T18:08:18.729-04:00"},"subject":{"reference":"Patient/2"},"valueQuantity":{"value":1.50}},"request":{"method":"PUT","url":"Observation/3"}},` +
			`{"fullUrl":"Patient/2/_history/1","resource":{"resourceType":"Patient","id":"2","meta":{"versionId":"1","lastUpdated":"2020-06-29T18:08:18.701-04:00"},"active":true},"request":{"method":"PUT","url":"Patient/2"}}]}`},
		{"without versions, with a prefix", replicating(t, fhir.ExtReplicatePrefix, "P-", fhir.ExtStripVersion, "true"), `{"resourceType":"Bundle","id":"b1","type":"transaction","entry":[` +
			`{"fullUrl":"Observation/P-3","resource":{"resourceType":"Observation","id":"P-3","meta":{"lastUpdated":"2020-06-29T18:08:18.729-04:00"},"subject":{"reference":"Patient/P-2"},"valueQuantity":{"value":1.50}},"request":{"method":"PUT","url":"Observation/P-3"}},` +
			`{"fullUrl":"Patient/P-2","resource":{"resourceType":"Patient","id":"P-2","meta":{"lastUpdated":"2020-06-29T18:08:18.701-04:00"},"active":true},"request":{"method":"PUT","url":"Patient/P-2"}}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.shape.Transaction("b1", found())
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			if err := new(json.Tree).Parse(got, json.Limits{}); err != nil {
				t.Error(err)
			}
		})
	}
}
