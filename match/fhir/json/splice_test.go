package json

import (
	"encoding/hex"
	"testing"
	"time"
)

func TestSpliceSetsOnlyWhatTheServerSets(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_900_000, time.FixedZone("", 3600))
	all := SpliceOptions{ID: "p1", VersionID: "42", LastUpdated: at}
	keep := all
	keep.KeepMeta = true
	const meta = `"meta":{"versionId":"42","lastUpdated":"2026-03-04T04:06:07.089Z"}`
	for _, c := range []struct {
		name, in string
		o        SpliceOptions
		want     string
	}{
		{"everything is missing", `{"resourceType":"Patient","x":1.00}`, all,
			`{"resourceType":"Patient","id":"p1",` + meta + `,"x":1.00}`},
		{"white space stays", "{ \"resourceType\" : \"Patient\" ,\n\t\"x\" : 1.00\n}\n", all,
			"{ \"resourceType\" : \"Patient\",\"id\":\"p1\"," + meta + " ,\n\t\"x\" : 1.00\n}\n"},
		{"everything is there", `{"resourceType":"Patient","id":"old","meta":{"versionId":"1","lastUpdated":"2020-01-01T00:00:00Z","tag":[]}}`, all,
			`{"resourceType":"Patient","id":"p1","meta":{"versionId":"42","lastUpdated":"2026-03-04T04:06:07.089Z","tag":[]}}`},
		{"meta before id", `{"meta":{"tag":[]},"id":"old"}`, all,
			`{"meta":{"versionId":"42","lastUpdated":"2026-03-04T04:06:07.089Z","tag":[]},"id":"p1"}`},
		{"empty meta", `{"resourceType":"Patient","meta":{},"id":"p1"}`, all,
			`{"resourceType":"Patient",` + meta + `,"id":"p1"}`},
		{"half a meta", `{"id":"p1","meta":{"lastUpdated":"2020-01-01T00:00:00Z"}}`, all,
			`{"id":"p1","meta":{"versionId":"42","lastUpdated":"2026-03-04T04:06:07.089Z"}}`},
		{"no resourceType", `{"x":1}`, all, `{"id":"p1",` + meta + `,"x":1}`},
		{"an empty object", `{ }`, all, `{"id":"p1",` + meta + ` }`},
		{"id after resourceType, meta behind it", `{"resourceType":"Patient","id":"p1"}`, all,
			`{"resourceType":"Patient","id":"p1",` + meta + `}`},
		{"a change feed keeps its own", `{"id":"p1","meta":{"versionId":"a","lastUpdated":"2020-01-01T00:00:00Z"}}`, keep,
			`{"id":"p1","meta":{"versionId":"a","lastUpdated":"2020-01-01T00:00:00Z"}}`},
		{"a change feed lacks one", `{"id":"p1","meta":{"lastUpdated":"2020-01-01T00:00:00Z"}}`, keep,
			`{"id":"p1","meta":{"versionId":"42","lastUpdated":"2020-01-01T00:00:00Z"}}`},
		{"the id alone", `{"resourceType":"Patient"}`, SpliceOptions{ID: "p1"}, `{"resourceType":"Patient","id":"p1"}`},
		{"nothing", `{ "a" : 1.0 }`, SpliceOptions{}, `{ "a" : 1.0 }`},
		{"only the top level", `{"contained":[{"id":"c","meta":{"versionId":"1"}}]}`, SpliceOptions{ID: "p1"},
			`{"id":"p1","contained":[{"id":"c","meta":{"versionId":"1"}}]}`},
		{"an escaped key", `{"\u0069d":"old"}`, SpliceOptions{ID: "p1"}, `{"\u0069d":"p1"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Splice([]byte(c.in), c.o)
			if err != nil || string(got) != c.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, c.want)
			}
		})
	}
	for _, bad := range []string{`[]`, `1`, `{"meta":[]}`, `{"meta":null}`, `{`} {
		if _, err := Splice([]byte(bad), all); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func TestSetStringReplacesOneMember(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":{"status":"x"}, "status" : "requested" }`: `{"a":{"status":"x"}, "status" : "active" }`,
		`{"a":1}`:           `{"a":1,"status":"active"}`,
		`{}`:                `{"status":"active"}`,
		`{ "status":null }`: `{ "status":"active" }`,
	} {
		got, err := SetString([]byte(in), "status", "active")
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s (%v), want %s", in, got, err, want)
		}
	}
	if got, err := SetString([]byte(`{"a":"b"}`), "a", "x\"\n"); err != nil || string(got) != `{"a":"x\"\n"}` {
		t.Errorf("quoting: %s (%v)", got, err)
	}
	if _, err := SetString([]byte(`[]`), "a", "b"); err == nil {
		t.Error("an array accepted")
	}
}

func TestContentHashIsOneForOneMeaning(t *testing.T) {
	const base = `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`
	hash := func(doc string) string {
		h := ContentHash(mustParse(t, doc))
		return hex.EncodeToString(h[:])
	}
	for name, doc := range map[string]string{
		"order of members":     `{"n":1.0,"name":[{"given":["a","b"],"family":"Ä"}],"id":"1","resourceType":"Patient"}`,
		"white space":          "{ \"resourceType\": \"Patient\",\n \"id\": \"1\", \"name\": [ { \"family\": \"Ä\", \"given\": [\"a\", \"b\"] } ], \"n\": 1.0 }",
		"escapes":              `{"resourceTyp\u0065":"Patient","id":"1","name":[{"family":"\u00c4","given":["a","b"]}],"n":1.0}`,
		"the server's meta":    `{"resourceType":"Patient","id":"1","meta":{"versionId":"3","lastUpdated":"2020-01-01T00:00:00Z"},"name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
		"empty meta":           `{"resourceType":"Patient","id":"1","meta":{},"name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
		"versionId out of two": `{"resourceType":"Patient","id":"1","meta":{"versionId":"3"},"name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
	} {
		if hash(doc) != hash(base) {
			t.Errorf("%s changes the hash", name)
		}
	}
	seen := map[string]string{hash(base): "base"}
	for name, doc := range map[string]string{
		"precision":           `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["a","b"]}],"n":1}`,
		"exponent":            `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["a","b"]}],"n":1.0e0}`,
		"id":                  `{"resourceType":"Patient","id":"2","name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
		"type":                `{"resourceType":"Person","id":"1","name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
		"order of items":      `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["b","a"]}],"n":1.0}`,
		"number to string":    `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["a","b"]}],"n":"1.0"}`,
		"boundary of strings": `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["ab",""]}],"n":1.0}`,
		"a tag":               `{"resourceType":"Patient","id":"1","meta":{"tag":[]},"name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
		"versionId elsewhere": `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":["a","b"],"meta":{"versionId":"3"}}],"n":1.0}`,
		"meta is no object":   `{"resourceType":"Patient","id":"1","meta":"","name":[{"family":"Ä","given":["a","b"]}],"n":1.0}`,
		"nesting":             `{"resourceType":"Patient","id":"1","name":[{"family":"Ä","given":[["a"],"b"]}],"n":1.0}`,
	} {
		if other, twice := seen[hash(doc)]; twice {
			t.Errorf("%s has the hash of %s", name, other)
		}
		seen[hash(doc)] = name
	}
}

// The hash stands in projections that nodes of different versions compare. A change of it
// needs a new level of the log, so this value must never be changed to make a test pass.
func TestContentHashIsTheSameInEveryVersion(t *testing.T) {
	h := ContentHash(mustParse(t, `{"b":[true,false,null,"é",-1.50e3],"a":{"z":"","meta":{}},"meta":{"versionId":"1","tag":[]}}`))
	if got := hex.EncodeToString(h[:]); got != "7c2eb169644f5c8bd723062d443ee2e5" {
		t.Errorf("hash = %s", got)
	}
}
