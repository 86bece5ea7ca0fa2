package search

import (
	"encoding/base64"
	"strings"
	"testing"
)

// R5 Location, parameter contains: "Select locations that contain the specified co-ordinates".
func TestAreasEnclosePoints(t *testing.T) {
	square := `{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,10],[0,10],[0,0]],[[4,4],[6,4],[6,6],[4,6],[4,4]]]}`
	body := func(boundary string) string {
		return `{"resourceType":"Location","extension":[{"url":"http://hl7.org/fhir/StructureDefinition/location-boundary-geojson","valueAttachment":{"contentType":"application/geo+json",` + boundary + `}}]}`
	}
	data := func(geojson string) string {
		return body(`"data":"` + base64.StdEncoding.EncodeToString([]byte(geojson)) + `"`)
	}
	for _, c := range []struct {
		body    string
		yes, no []string
	}{
		{data(square), []string{"contains=1|2", "contains=9.99|0.01", "contains=50|50,1|1", "contains:missing=false"},
			[]string{"contains=5|5", "contains=-1|5", "contains=5|10.01", "contains=11|5", "contains:missing=true"}}, // 5|5 is in the hole
		{data(`{"type":"Feature","geometry":` + square + `}`), []string{"contains=1|2"}, []string{"contains=5|5"}},
		{data(`{"type":"FeatureCollection","features":[{"type":"Feature","geometry":null},{"type":"Feature","geometry":` + square + `}]}`), []string{"contains=1|2"}, []string{"contains=20|2"}},
		{data(`{"type":"GeometryCollection","geometries":[{"type":"Point","coordinates":[50,50]},` + square + `]}`), []string{"contains=1|2"}, []string{"contains=50|50"}},
		{data(`{"type":"MultiPolygon","coordinates":[[[[0,0],[1,0],[1,1],[0,1],[0,0]]],[[[20,-20],[21,-20],[21,-21],[20,-20]]]]}`),
			[]string{"contains=0.5|0.5", "contains=-20.1|20.5", "contains=0.5|0.5&contains=-20.1|20.5"}, []string{"contains=10|10", "contains=-20.9|20.1"}},
		{data(`{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,1000],[0,0]]]}`), nil, []string{"contains=1|2"}},
		{data(`{"type":"Polygon","coordinates":[[[0],[10,"x"],[10,10]]]}`), nil, []string{"contains=1|2"}},
		{data(`{"type":"Polygon","coordinates":5}`), nil, []string{"contains=1|2"}},
		{data(`no json`), nil, []string{"contains=1|2"}},
		{body(`"data":"%%"`), nil, []string{"contains=1|2"}},
		{body(`"url":"http://elsewhere.example/boundary"`), []string{"contains:missing=false"}, []string{"contains=1|2"}},
		{`{"resourceType":"Location"}`, []string{"contains:missing=true"}, []string{"contains=1|2"}},
	} {
		r := resource(t, R5(), c.body)
		for want, list := range map[bool][]string{true: c.yes, false: c.no} {
			for _, q := range list {
				x := compiled(t, R5(), "Location?"+q)
				if x.Match(r) != want || x.Explain(r)[1].Met != want && !strings.Contains(q, "&") {
					t.Errorf("%s of %s = %v", q, c.body, !want)
				}
			}
		}
	}
	r := resource(t, R5(), data(square))
	if x := compiled(t, R5(), "Location?contains=50|50").Explain(r)[1]; len(x.Found) != 1 || x.Found[0] != "an area of 10 corners from 0|0" {
		t.Errorf("%+v", x)
	}
	for q, text := range map[string]string{"1": "latitude|longitude", "1|2|3": "latitude|longitude", "91|0": "from -90 to 90", "0|181": "from -180", "x|1": "a number"} {
		if _, err := R5().Compile("Location?contains=" + q); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", q, err)
		}
	}
}

// R5 Composition: section-text searches the narrative of sections, alone and together with their
// code.
func TestTheTextOfSectionsIsSearched(t *testing.T) {
	r := resource(t, R5(), `{"resourceType":"Composition","section":[{"code":{"coding":[{"code":"top"}]},"text":{"div":"<div>Patient is <b>well</b></div>"},
		"section":[{"code":{"coding":[{"code":"a"}]},"text":{"div":"<div>Fever &amp; cough</div>"}},{"code":{"coding":[{"code":"b"}]}}]}]}`)
	for q, want := range map[string]bool{"section-text=well": true, "section-text=fever cough": true, "section-text=cold": false, "section-text=b": false,
		"section-text:missing=false": true, "section-code-text=a$cough": true, "section-code-text=a$well": false} {
		x := compiled(t, R5(), "Composition?"+q)
		if x.Match(r) != want || x.Explain(r)[1].Met != want {
			t.Errorf("%s = %v", q, !want)
		}
	}
}
