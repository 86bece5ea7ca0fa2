package search

import (
	"bufio"
	"bytes"
	"compress/gzip"
	stdjson "encoding/json"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// lines gives the sample's resources.
func lines(t testing.TB) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/sample-r4.ndjson.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	s := bufio.NewScanner(z)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		out = append(out, slices.Clone(s.Bytes()))
	}
	if s.Err() != nil || len(out) < 500 {
		t.Fatalf("%d lines: %v", len(out), s.Err())
	}
	return out
}

// The naive reading shares nothing with the package: maps of encoding/json, a condition
// written by hand for each criteria.
type object = map[string]any

// at follows a dotted path through objects and lists.
func at(v any, path string) []any {
	out := []any{v}
	for _, key := range strings.Split(path, ".") {
		var next []any
		for _, o := range out {
			m, ok := o.(object)
			if !ok || m[key] == nil {
				continue
			}
			if list, ok := m[key].([]any); ok {
				next = append(next, list...)
			} else {
				next = append(next, m[key])
			}
		}
		out = next
	}
	return out
}

func has(m object, path string, want ...string) bool {
	return slices.ContainsFunc(at(m, path), func(v any) bool {
		s, ok := v.(string)
		return ok && slices.Contains(want, s)
	})
}

func starts(m object, path string, prefix string) bool {
	return slices.ContainsFunc(at(m, path), func(v any) bool {
		s, ok := v.(string)
		return ok && strings.HasPrefix(strings.ToLower(s), prefix)
	})
}

func coded(m object, path, system, code string) bool {
	return slices.ContainsFunc(at(m, path), func(v any) bool {
		o, _ := v.(object)
		return o["system"] == system && o["code"] == code
	})
}

// number compares a decimal exactly.
func number(m object, path string, ok func(sign int) bool, with string) bool {
	w, _ := new(big.Rat).SetString(with)
	return slices.ContainsFunc(at(m, path), func(v any) bool {
		n, is := v.(stdjson.Number)
		if !is {
			return false
		}
		r, _ := new(big.Rat).SetString(n.String())
		return ok(r.Cmp(w))
	})
}

func above(s int) bool { return s > 0 }

// day reads the first ten characters of a time as UTC. The sample's zones make no difference
// to the criteria that use it.
func dates(m object, path string, ok func(string) bool) bool {
	return slices.ContainsFunc(at(m, path), func(v any) bool {
		s, is := v.(string)
		return is && ok(s)
	})
}

var naive = map[string]func(object) bool{
	"Patient":                     func(m object) bool { return true },
	"Patient?gender=female":       func(m object) bool { return has(m, "gender", "female") },
	"Patient?gender:not=female":   func(m object) bool { return !has(m, "gender", "female") },
	"Patient?birthdate=ge1980":    func(m object) bool { return dates(m, "birthDate", func(s string) bool { return s[:4] >= "1980" }) },
	"Patient?birthdate=lt1950-06": func(m object) bool { return dates(m, "birthDate", func(s string) bool { return s[:7] < "1950-06" }) },
	"Patient?address-state=mass":  func(m object) bool { return starts(m, "address.state", "mass") },
	"Patient?family=b":            func(m object) bool { return starts(m, "name.family", "b") },
	"Patient?given=j":             func(m object) bool { return starts(m, "name.given", "j") },
	"Patient?deceased=true":       func(m object) bool { return m["deceasedDateTime"] != nil || m["deceasedBoolean"] == true },
	"Patient?death-date:missing=true": func(m object) bool {
		return m["deceasedDateTime"] == nil
	},
	"Patient?general-practitioner:missing=false": func(m object) bool { return m["generalPractitioner"] != nil },
	"Observation?status=final":                   func(m object) bool { return has(m, "status", "final") },
	"Observation?code=8302-2,29463-7":            func(m object) bool { return has(m, "code.coding.code", "8302-2", "29463-7") },
	"Observation?code=http://loinc.org|8302-2":   func(m object) bool { return coded(m, "code.coding", "http://loinc.org", "8302-2") },
	"Observation?category=vital-signs&status=final": func(m object) bool {
		return has(m, "category.coding.code", "vital-signs") && has(m, "status", "final")
	},
	"Observation?value-quantity=gt100": func(m object) bool { return number(m, "valueQuantity.value", above, "100") },
	"Observation?value-quantity=lt170||cm": func(m object) bool {
		return has(m, "valueQuantity.code", "cm") && number(m, "valueQuantity.value", func(s int) bool { return s < 0 }, "170") ||
			has(m, "valueQuantity.unit", "cm") && number(m, "valueQuantity.value", func(s int) bool { return s < 0 }, "170")
	},
	"Observation?component-value-quantity=ge80": func(m object) bool {
		// The one SampledData of the sample has its origin at 2048.
		return number(m, "component.valueQuantity.value", func(s int) bool { return s >= 0 }, "80") ||
			len(at(m, "component.valueSampledData")) > 0
	},
	"Observation?value-quantity:missing=true": func(m object) bool { return m["valueQuantity"] == nil && m["valueSampledData"] == nil },
	"Observation?combo-code=8480-6": func(m object) bool {
		return has(m, "component.code.coding.code", "8480-6") || has(m, "code.coding.code", "8480-6")
	},
	"Observation?subject:missing=true": func(m object) bool { return m["subject"] == nil },
	"Encounter?class=AMB":              func(m object) bool { return has(m, "class.code", "AMB") },
	"Encounter?status=finished":        func(m object) bool { return has(m, "status", "finished") },
	"Encounter?date=ge2015": func(m object) bool {
		return m["period"] != nil && (at(m, "period.end") == nil || dates(m, "period.end", func(s string) bool { return s[:4] >= "2015" }))
	},
	"Condition?clinical-status=active,recurrence": func(m object) bool { return has(m, "clinicalStatus.coding.code", "active", "recurrence") },
	"Condition?onset-date=lt2010":                 func(m object) bool { return dates(m, "onsetDateTime", func(s string) bool { return s[:4] < "2010" }) },
	"Procedure?status=completed&code:missing=false": func(m object) bool {
		return has(m, "status", "completed") && m["code"] != nil
	},
	"MedicationRequest?intent=order&status:not=stopped": func(m object) bool { return has(m, "intent", "order") && !has(m, "status", "stopped") },
	"Immunization?vaccine-code=140":                     func(m object) bool { return has(m, "vaccineCode.coding.code", "140") },
	"Task?status=requested,accepted&priority=stat":      func(m object) bool { return has(m, "status", "requested", "accepted") && has(m, "priority", "stat") },
	"Task?owner=Organization/lab-3": func(m object) bool {
		return has(m, "owner.reference", "Organization/lab-3")
	},
	"Task?owner=lab-1,lab-2,lab-3,lab-4": func(m object) bool {
		return has(m, "owner.reference", "Organization/lab-1", "Organization/lab-2", "Organization/lab-3", "Organization/lab-4")
	},
	"ServiceRequest?requester:missing=false&intent=order": func(m object) bool { return m["requester"] != nil && has(m, "intent", "order") },
	"DiagnosticReport?result:missing=false":               func(m object) bool { return m["result"] != nil },
	"Organization?name=h":                                 func(m object) bool { return starts(m, "name", "h") || starts(m, "alias", "h") },
	"Practitioner?active=true":                            func(m object) bool { return m["active"] == true },
	"Claim?status=active&use=claim":                       func(m object) bool { return has(m, "status", "active") && has(m, "use", "claim") },
	"Goal?lifecycle-status=accepted,active":               func(m object) bool { return has(m, "lifecycleStatus", "accepted", "active") },
	"CarePlan?category=734163000":                         func(m object) bool { return has(m, "category.coding.code", "734163000") },
	"AllergyIntolerance?criticality=low,high":             func(m object) bool { return has(m, "criticality", "low", "high") },
	"Observation?_lastUpdated=ge2026-06": func(m object) bool {
		return dates(m, "meta.lastUpdated", func(s string) bool { return s[:7] >= "2026-06" })
	},
	"Observation?_tag:missing=true": func(m object) bool { return len(at(m, "meta.tag")) == 0 },
	"Patient?telecom:missing=true":  func(m object) bool { return len(at(m, "telecom")) == 0 },
}

func TestMatchAgreesWithANaiveReading(t *testing.T) {
	d := R4()
	all := lines(t)
	empty := 0
	for q, reading := range naive {
		typ, _, _ := strings.Cut(q, "?")
		c := compiled(t, d, q)
		matches := 0
		for _, line := range all {
			dec := stdjson.NewDecoder(bytes.NewReader(line))
			dec.UseNumber()
			var m object
			if err := dec.Decode(&m); err != nil {
				t.Fatal(err)
			}
			want := m["resourceType"] == typ && reading(m)
			r := resource(t, d, string(line))
			if got := c.Match(r); got != want {
				t.Errorf("%s of %s/%s = %v, want %v", q, m["resourceType"], m["id"], got, want)
			}
			if want {
				matches++
				agrees(t, c, r)
			}
		}
		if matches == 0 {
			empty++
			t.Logf("%s meets nothing in the sample", q)
		}
	}
	if empty > 3 {
		t.Errorf("%d criteria meet nothing: they test little", empty)
	}
}

// Every value that a parameter reads in the sample, asked for as a criteria, finds its
// resource again, by Match and by its place in an index.
func TestEveryValueFindsItsResource(t *testing.T) {
	d := R4()
	asked := map[kind]int{}
	for _, line := range lines(t) {
		r := resource(t, d, string(line))
		for code, p := range r.typ.params {
			if p.paths == nil || p.kind == kindComposite || p.kind == kindSpecial {
				continue // the tests of these are in files of their own
			}
			for _, v := range valuesOf(r, p) {
				asked[p.kind]++
				q := r.Type() + "?" + code + "=" + encode(v)
				c, err := d.Compile(q)
				if err != nil {
					t.Errorf("%s: %v", q, err)
					continue
				}
				if !c.Match(r) {
					t.Errorf("%s does not find %s/%s", q, r.Type(), r.ID())
				}
				agrees(t, c, r)
			}
		}
	}
	for _, k := range []kind{kindToken, kindString, kindReference, kindDate, kindQuantity, kindURI} {
		if asked[k] < 20 {
			t.Errorf("only %d values of kind %s", asked[k], k)
		}
	}
	t.Log(asked)
}

// valuesOf writes the values of a parameter as a criteria would.
func valuesOf(r *Resource, p *param) []string {
	s := r.values(p)
	var out []string
	for i := s.from; i < s.to && i < s.from+5; i++ {
		switch p.kind {
		case kindToken:
			v := r.tokens[i]
			switch {
			case v.code == nil:
				out = append(out, escape(string(v.system))+"|")
			case v.system != nil:
				out = append(out, escape(string(v.system))+"|"+escape(string(v.code)))
			default:
				out = append(out, escape(string(v.code)))
			}
		case kindString:
			if len(r.texts[i].folded) > 0 && r.texts[i].raw != nil && len(r.texts[i].raw) < 500 {
				out = append(out, escape(string(r.texts[i].raw)))
			}
		case kindReference:
			v := r.references[i]
			if len(v.raw) > 0 && v.raw[0] != '#' && (v.id == nil || v.base != nil || len(p.targets) == 0 || slices.Contains(p.targets, string(v.typ))) &&
				(v.id != nil || strings.Contains(string(v.raw), ":")) {
				out = append(out, escape(string(v.raw)))
			}
		case kindDate:
			if raw := string(r.spans[i].raw); !strings.HasPrefix(raw, "{") {
				out = append(out, "ap"+raw)
			}
		case kindURI:
			out = append(out, escape(string(r.uris[i].raw)))
		default:
			if a := r.amounts[i]; !a.noLo && !a.noHi {
				out = append(out, "ge"+a.lo.apd().Text('f'), "le"+a.hi.apd().Text('f'))
			}
		}
	}
	return out
}

func BenchmarkEvent(b *testing.B) {
	all := lines(b)
	d := R4()
	var criteria []*Criteria
	for q := range naive {
		if strings.HasPrefix(q, "Observation?") {
			criteria = append(criteria, compiled(b, d, q))
		}
	}
	all = slices.DeleteFunc(all, func(l []byte) bool { return !bytes.Contains(l[:40], []byte(`"Observation"`)) })
	var tree json.Tree
	r := NewResource(d, &tree)
	b.ReportAllocs()
	b.Run("parse and match", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := tree.Parse(all[i%len(all)], json.Limits{}); err != nil {
				b.Fatal(err)
			}
			r.Reset(&tree, Envelope{})
			for _, c := range criteria {
				c.Match(r)
			}
		}
	})
	b.Run("extract four parameters", func(b *testing.B) {
		b.ReportAllocs()
		if err := tree.Parse(all[0], json.Limits{}); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			r.Reset(&tree, Envelope{})
			for _, p := range []string{"code", "subject", "category", "status"} {
				r.Hashes(feature(r, p))
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for v, table := range map[fhir.Version]string{fhir.R4: r4Table, fhir.R4B: r4bTable, fhir.R5: r5Table} {
		b.Run(string(v), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parseTable(v, table); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := R4().Compile("Observation?code=http://loinc.org|718-7&subject=Patient/1&value-quantity=gt5.4"); err != nil {
			b.Fatal(err)
		}
	}
}
