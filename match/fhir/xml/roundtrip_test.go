package xml

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	stdjson "encoding/json"
	stdxml "encoding/xml"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// meaning is a document of JSON as a tree in which numbers have their text.
func meaning(t testing.TB, json []byte) any {
	t.Helper()
	d := stdjson.NewDecoder(bytes.NewReader(json))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	return v
}

// difference finds where two trees differ; empty where they do not.
func difference(a, b any) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return ": object against something else"
		}
		for k := range x {
			if _, ok := y[k]; !ok {
				return "." + k + " is in the first alone"
			}
			if d := difference(x[k], y[k]); d != "" {
				return "." + k + d
			}
		}
		for k := range y {
			if _, ok := x[k]; !ok {
				return "." + k + " is in the second alone"
			}
		}
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return ": arrays of different length"
		}
		for i := range x {
			if d := difference(x[i], y[i]); d != "" {
				return "[" + itoa(i) + "]" + d
			}
		}
	}
	got, _ := stdjson.Marshal(a)
	want, _ := stdjson.Marshal(b)
	return ": " + string(got) + " against " + string(want)
}

// wellFormed reads a document with another reader of XML.
func wellFormed(xml []byte) error {
	d := stdxml.NewDecoder(bytes.NewReader(xml))
	for {
		if _, err := d.Token(); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// roundTrip takes a resource from JSON to XML and back, plain and indented, and has the XML read by
// others.
func roundTrip(t testing.TB, v fhir.Version, json []byte) {
	t.Helper()
	for _, marshal := range []func(fhir.Version, []byte) ([]byte, error){Marshal, MarshalIndent} {
		if err := wellFormed(thereAndBack(t, v, json, marshal)); err != nil {
			t.Fatalf("encoding/xml does not read it: %v", err)
		}
	}
}

func thereAndBack(t testing.TB, v fhir.Version, json []byte, marshal func(fhir.Version, []byte) ([]byte, error)) (xml []byte) {
	t.Helper()
	xml, err := marshal(v, json)
	if err != nil {
		t.Fatalf("to XML: %v", err)
	}
	back, err := Unmarshal(v, xml)
	if err != nil {
		t.Fatalf("to JSON: %v\n%s", err, xml)
	}
	if d := difference(meaning(t, json), meaning(t, back)); d != "" {
		t.Fatalf("resource%s\n%s", d, xml)
	}
	return xml
}

// lines ranges over the lines of a packed file.
func lines(t testing.TB, file string, each func(n int, line []byte)) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = bzip2.NewReader(f)
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 8<<20)
	n := 0
	for s.Scan() {
		n++
		each(n, s.Bytes())
	}
	if s.Err() != nil || n == 0 {
		t.Fatalf("%s: %d lines, %v", file, n, s.Err())
	}
}

func TestAllSampleResourcesMeanTheSameAfterXMLAndBack(t *testing.T) {
	file := "../../search/testdata/all-r4.ndjson.bz2"
	if testing.Short() {
		file = "../../search/testdata/sample-r4.ndjson.gz"
	}
	lines(t, file, func(n int, line []byte) {
		if n%16 == 0 {
			roundTrip(t, fhir.R4, line)
			return
		}
		thereAndBack(t, fhir.R4, line, Marshal)
	})
}

func TestHL7sSubscriptionExamplesMeanTheSameAfterXMLAndBack(t *testing.T) {
	for v, file := range map[fhir.Version]string{fhir.R4: "r4", fhir.R4B: "r4b", fhir.R5: "r5"} {
		lines(t, "testdata/examples-"+file+".ndjson.gz", func(_ int, line []byte) {
			// Those of R5 write an integer64 as a number, R5's text has it as a string. Both are read.
			if _, err := Marshal(v, line); err != nil {
				t.Fatalf("to XML: %v", err)
			}
			roundTrip(t, v, integer64.ReplaceAll(line, []byte(`"$1":"$2"`)))
		})
	}
}

var integer64 = regexp.MustCompile(`"(eventsSinceSubscriptionStart|eventNumber)":([0-9]+)`)

// pairs ranges over examples that HL7 publishes in both representations.
func pairs(t *testing.T, each func(t *testing.T, v fhir.Version, json, xml []byte)) {
	for _, v := range fhir.Versions() {
		files, err := filepath.Glob(filepath.Join("testdata", string(v), "*.xml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no examples of %s: %v", v, err)
		}
		for _, file := range files {
			t.Run(string(v)+" "+strings.TrimSuffix(filepath.Base(file), ".xml"), func(t *testing.T) {
				xml, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				json, err := os.ReadFile(strings.TrimSuffix(file, "xml") + "json")
				if err != nil {
					t.Fatal(err)
				}
				each(t, v, json, xml)
			})
		}
	}
}

func TestHL7sExamplesInXMLAreTheirJSON(t *testing.T) {
	pairs(t, func(t *testing.T, v fhir.Version, json, xml []byte) {
		got, err := Unmarshal(v, xml)
		if err != nil {
			t.Fatal(err)
		}
		if d := difference(resolved(meaning(t, got)), resolved(meaning(t, json))); d != "" {
			t.Errorf("resource%s", d)
		}
		roundTrip(t, v, json)
		if bytes.Contains(xml, []byte("<Observation")) && v != fhir.R5 {
			return // published with an extension behind status, where it does not belong
		}
		back, err := Marshal(v, got)
		if err != nil {
			t.Fatal(err)
		}
		want, have := tokens(t, xml), tokens(t, back)
		for i := range max(len(want), len(have)) {
			if i >= len(want) || i >= len(have) || want[i] != have[i] {
				t.Fatalf("after JSON and back the XML is another from token %d: %q, want %q", i, have[min(i, len(have)):], want[min(i, len(want)):])
			}
		}
	})
}

// tokens are what a document says, one text for each token: attributes in order of their names,
// without comments and what says nothing about the resource.
func tokens(t *testing.T, xml []byte) []string {
	d := stdxml.NewDecoder(bytes.NewReader(xml))
	var out []string
	narrative := false
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := tok.(type) {
		case stdxml.StartElement:
			narrative = narrative || x.Name.Local == "div"
			one := "<" + x.Name.Space + " " + x.Name.Local
			slices.SortFunc(x.Attr, func(a, b stdxml.Attr) int { return strings.Compare(a.Name.Local, b.Name.Local) })
			for _, a := range x.Attr {
				if a.Name.Local != "xmlns" && a.Name.Space != "xmlns" && a.Name.Local != "schemaLocation" {
					one += " " + a.Name.Local + "=" + strings.NewReplacer("\n", " ", "\t", " ").Replace(a.Value)
				}
			}
			out = append(out, one)
		case stdxml.EndElement:
			narrative = narrative && x.Name.Local != "div"
			out = append(out, "</"+x.Name.Local)
		case stdxml.CharData:
			if narrative {
				out = append(out, string(x))
			}
		}
	}
}

// resolved makes references to characters, which a narrative may hold or not, the characters.
func resolved(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			x[k] = resolved(x[k])
		}
	case []any:
		for i := range x {
			x[i] = resolved(x[i])
		}
	case string:
		if strings.HasPrefix(x, "<div") {
			return strings.NewReplacer("&quot;", `"`, "&#39;", "'", "&gt;", ">").Replace(x)
		}
	}
	return v
}
