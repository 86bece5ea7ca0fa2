package xml

import (
	"bytes"
	stdxml "encoding/xml"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// FuzzXMLThatIsReadIsReadAlikeByOthers holds the scanner against encoding/xml, and what it made of
// a document against what it makes of its own XML.
func FuzzXMLThatIsReadIsReadAlikeByOthers(f *testing.F) {
	for _, file := range examples(f, "xml") {
		f.Add(file)
	}
	for _, doc := range []string{
		`<f:Patient xmlns:f="http://hl7.org/fhir" xmlns="http://www.w3.org/1999/xhtml"><f:text><div title="a&#10;b"><p>&amp;</p></div></f:text></f:Patient>`,
		`<Patient xmlns="http://hl7.org/fhir" xmlns:h="http://www.w3.org/1999/xhtml"><text><h:div><h:p xmlns="urn:x"/></h:div></text></Patient>`,
		`<!DOCTYPE x [<!ENTITY a "b">]><Patient xmlns="http://hl7.org/fhir"><language value="&a;"/></Patient>`,
		`<Patient xmlns="http://hl7.org/fhir"><!-- a --><name><given value="a"/><given id="b"/></name><active value=" true"/></Patient>`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		json, err := Unmarshal(fhir.R4, doc)
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Fatalf("no *fhir.Error: %v", err)
			}
			return
		}
		readByOthers(t, doc)
		if _, err := fhirjson.Parse(json, fhirjson.Limits{Depth: 2*maxDepth + 2}); err != nil {
			t.Fatalf("not strict JSON: %v\n%s", err, json)
		}
		xml, err := Marshal(fhir.R4, json)
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Fatalf("no *fhir.Error: %v", err)
			}
			return // deeper than JSON may be
		}
		readByOthers(t, xml)
		again, err := Unmarshal(fhir.R4, xml)
		if err != nil || !bytes.Equal(again, json) {
			t.Fatalf("another meaning after XML and back: %v\n%s\n%s", err, json, again)
		}
	})
}

// FuzzJSONMeansTheSameAfterXMLAndBack says that what Marshal writes is XML that is read as what it
// was made of.
func FuzzJSONMeansTheSameAfterXMLAndBack(f *testing.F) {
	for _, file := range examples(f, "json") {
		f.Add(file)
	}
	f.Add([]byte(`{"resourceType":"Patient","text":{"div":"<div>&nbsp;<p xmlns=''/></div>"},"name":[{"given":["a",null],"_given":[null,{"id":"b"}]}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		xml, err := Marshal(fhir.R4, doc)
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Fatalf("no *fhir.Error: %v", err)
			}
			return
		}
		readByOthers(t, xml)
		json, err := Unmarshal(fhir.R4, xml)
		if err != nil {
			t.Fatalf("what was written is not read: %v\n%s", err, xml)
		}
		// What JSON may say in several ways XML says in one.
		again, err := Marshal(fhir.R4, json)
		if err != nil || !bytes.Equal(again, xml) {
			t.Fatalf("another meaning after JSON and back: %v\n%s\n%s", err, xml, again)
		}
	})
}

func examples(f *testing.F, ext string) [][]byte {
	files, _ := filepath.Glob(filepath.Join("testdata", "R4", "*."+ext))
	if len(files) == 0 {
		f.Fatal("no examples")
	}
	var out [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, text)
	}
	return out
}

// readByOthers demands that encoding/xml reads a document, and finds as many elements in it.
func readByOthers(t *testing.T, doc []byte) {
	t.Helper()
	d := stdxml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(doc, []byte("\xEF\xBB\xBF"))))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("encoding/xml does not read it: %v\n%s", err, doc)
		}
	}
}

func BenchmarkMarshal(b *testing.B) {
	doc, err := os.ReadFile("testdata/R4/patient-example.json")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(fhir.R4, doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	doc, err := os.ReadFile("testdata/R4/patient-example.xml")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unmarshal(fhir.R4, doc); err != nil {
			b.Fatal(err)
		}
	}
}
