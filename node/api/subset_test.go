package api

import (
	"encoding/json"
	"slices"
	"testing"
)

// Whatever a source has for meta, a part of its resource is marked as one, and is JSON.
func TestEveryPartIsMarked(t *testing.T) {
	f := form{table: newSubsetTable("R4"), summary: "data"}
	for _, meta := range []string{``, `"meta":{},`, `"meta":{"versionId":"1"},`, `"meta":{"tag":[]},`, `"meta":{"tag":[{"code":"a"}]},`,
		`"meta":{"tag":{"code":"a"},"versionId":"1"},`, `"meta":7,`, `"meta":null,`, `"meta": { "tag" : [ {"code":"a"} ] , "x":1 } ,`} {
		body := `{"resourceType":"Patient",` + meta + `"id":"p","text":{"div":"x"},"active":true}`
		out, err := f.show(Resource{Body: []byte(body)}, true)
		var got struct {
			Meta struct{ Tag []struct{ Code string } }
			Text any
		}
		if err == nil {
			err = json.Unmarshal(out, &got)
		}
		if n := len(got.Meta.Tag); err != nil || got.Text != nil || n == 0 || got.Meta.Tag[n-1].Code != "SUBSETTED" || n > 1 && got.Meta.Tag[0].Code != "a" {
			t.Errorf("%s: %s, %v", meta, out, err)
		}
	}
}

// Each release has a table that knows its types, with the elements that every resource has.
func TestSubsetTablesKnowEveryType(t *testing.T) {
	for release, count := range map[string]int{"R4": 146, "R4B": 141, "R5": 158} {
		table := newSubsetTable(release)
		if len(table.elements("Patient")) == 0 || len(table.list) != count {
			t.Errorf("%s has %d types, want %d", release, len(table.list), count)
		}
		for typ, elements := range table.list {
			if !slices.ContainsFunc(elements, func(e subsetElement) bool { return e.name == "meta" && e.summary }) {
				t.Errorf("%s %s has no meta in its summary", release, typ)
			}
		}
	}
	e := subsetElement{name: "value", choice: true}
	for member, want := range map[string]bool{"valueQuantity": true, "value": false, "values": false, "valueSet": true, "val": false} {
		if e.is(member) != want {
			t.Errorf("value[x] is %s: %v", member, !want)
		}
	}
}
