package search

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// feature is the plain one of a parameter of R4.
func feature(r *Resource, code string) Feature {
	t := R4().types[r.Type()]
	if t == nil || t.params[code] == nil {
		return Feature{}
	}
	return Feature{typ: t.name, param: t.params[code]}
}

// finds reports whether an index that has posted a criteria under a would find it for r.
func finds(a Access, r *Resource) bool {
	if a.Feature.Linked() {
		hashes, known := r.LinkedHashes(a.Feature)
		return !known || slices.ContainsFunc(hashes, func(h uint64) bool { return slices.Contains(a.Hashes, h) })
	}
	if hull, ok := r.Range(a.Feature); ok {
		return slices.ContainsFunc(a.Ranges, hull.Overlaps)
	}
	return slices.ContainsFunc(r.Hashes(a.Feature), func(h uint64) bool { return slices.Contains(a.Hashes, h) })
}

func TestACriteriaIsFoundByWhatFewestResourcesHave(t *testing.T) {
	for q, want := range map[string]string{ // in order of preference
		"Patient":                                                     "",
		"[*]":                                                         "",
		"Patient?_id=1&identifier=a|b":                                "_id identifier",
		"Patient?gender=male&identifier=a|b":                          "identifier gender",
		"Patient?gender:not=male":                                     "",
		"Patient?gender:missing=true":                                 "",
		"Patient?gender:missing=false":                                "",
		"Patient?identifier=a|":                                       "", // hashes are of codes
		"Patient?identifier=a|,b|c":                                   "",
		"Patient?name=smith":                                          "name:start5",
		"Patient?name=smithers,jo":                                    "name:start2",
		"Patient?name=wolfeschlegelsteinhausenbergerdorff":            "name:start24",
		"Patient?name:contains=mith":                                  "",
		"Patient?birthdate=1980-02-03&gender=male":                    "birthdate:order gender",
		"Patient?birthdate=ge1980&gender=male":                        "gender birthdate:order",
		"Patient?birthdate=ne1980":                                    "",
		"Patient?birthdate=ne1980,1981":                               "",
		"Patient?_lastUpdated=gt2020":                                 "",
		"Observation?status=final&subject=Patient/1":                  "subject status",
		"Observation?status=final&subject:Patient=1":                  "subject status",
		"Observation?status=final&code=a":                             "code status",
		"Observation?category=laboratory&code=a&date=gt2020":          "code category date:order",
		"Observation?subject:identifier=a|b&status=f":                 "subject:identifier status",
		"Observation?value-quantity=5":                                "value-quantity:order",
		"Observation?value-quantity=gt5||mg":                          "value-quantity:order",
		"Observation?value-quantity=gt5|http://unitsofmeasure.org|mg": "value-quantity:order:g", // may be met by 6 000 ug
		"Observation?value-quantity=gt5|http://unitsofmeasure.org|mg,3|http://unitsofmeasure.org|kg": "value-quantity:order:g",
		"Observation?value-quantity=gt5|http://unitsofmeasure.org|mg,3|http://unitsofmeasure.org|mm": "", // two kinds
		"Observation?value-quantity=gt5|http://unitsofmeasure.org|mg,3":                              "",
		"Observation?value-quantity=gt5|http://unitsofmeasure.org|TAB":                               "value-quantity:order", // is no unit, and does not convert
		"Observation?code:not=a&status=final":                                                        "status",
		"Patient?family:exact=Smith&gender=male":                                                     "family:exact gender",
		"Patient?_profile=http://p&family:exact=Smith":                                               "family:exact _profile",
		"RiskAssessment?probability=gt0.5&condition=Condition/1":                                     "condition probability:order",
		"ValueSet?url=http://x&status=active":                                                        "url status",
	} {
		var got []string
		for _, a := range compiled(t, R4(), q).Accesses() {
			got = append(got, a.Feature.String())
			if (len(a.Hashes) > 0) == (len(a.Ranges) > 0) || a.Feature.Ordered() != (len(a.Ranges) > 0) || a.Feature.Type() != q[:strings.IndexByte(q, '?')] {
				t.Errorf("%s: %+v", q, a)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", q, got, want)
		}
	}
	if n := len(compiled(t, R4(), "Observation?code=a,b,c,s|a").Accesses()[0].Hashes); n != 3 {
		t.Errorf("%d hashes for three codes", n)
	}
}

// Two limits of one parameter are one range, unless no value can lie between them.
func TestLimitsOfOneParameterAreTakenTogether(t *testing.T) {
	inf := math.Inf(1)
	for q, want := range map[string][]Range{
		"value-quantity=gt5&value-quantity=lt10":  {{4.5, 10.5}}, // with the precision of the searched numbers
		"value-quantity=gt10&value-quantity=lt5":  {{9.5, inf}},
		"value-quantity=gt5":                      {{4.5, inf}},
		"value-quantity=eb5":                      {{-inf, 5.5}},
		"value-quantity=5,7.0":                    {{4.5, 5.5}, {6.95, 7.05}},
		"value-quantity=5,7.0&value-quantity=lt6": {{4.5, 5.5}, {6.95, 7.05}},
		"date=ge1970-01-02&date=lt1970-01-03":     {{86400, 3 * 86400}},
		"date=1970":                               {{0, 365 * 86400}},
	} {
		a := compiled(t, R4(), "Observation?"+q).Accesses()[0]
		same := len(a.Ranges) == len(want)
		for i := range want {
			same = same && near(a.Ranges[i].Low, want[i].Low) && near(a.Ranges[i].High, want[i].High)
		}
		if !same {
			t.Errorf("%s: %v, want %v", q, a.Ranges, want)
		}
	}
}

func near(got, want float64) bool { return got == want || math.Abs(got-want) < 1e-6 }

// A value on the very edge of a limit, in whatever form it is written, must be found.
func TestRangesHoldWhateverIsWithinTheLimits(t *testing.T) {
	numbers := []string{"0", "-0", "5", "5.0", "50e-1", "0.1", "10e-2", "1e-1", "0.3", "3e-1", "1e308", "1e309", "-1e309", "1e999",
		"1e-400", "-1e-400", "123456789012345678901234567890", "9007199254740993", "9007199254740992.9999", "0.1000000000000000000000001"}
	for _, want := range numbers {
		for _, prefix := range []string{"", "gt", "lt", "ge", "le", "sa", "eb", "ap"} {
			c := compiled(t, R4(), "Observation?value-quantity="+prefix+want)
			for _, v := range numbers {
				for _, form := range []string{`{"value":%s}`, `{"value":%s,"comparator":"<"}`, `{"value":%s,"comparator":">="}`} {
					agrees(t, c, resource(t, R4(), fmt.Sprintf(`{"resourceType":"Observation","valueQuantity":`+form+`}`, v)))
				}
			}
		}
	}
	dates := []string{"0001", "9999-12-31", "2020-02-29", "2020-02-29T23:59:60Z", "2020-02-29T24:00:00Z", "2020-03-01T00:00:00.000000001+14:00"}
	for _, want := range dates {
		for _, prefix := range []string{"", "gt", "lt", "ge", "le", "sa", "eb", "ap"} {
			c := compiled(t, R4(), "Observation?date="+prefix+strings.ReplaceAll(want, "+", "%2B"))
			for _, v := range dates {
				for _, form := range []string{`"effectiveDateTime":%q`, `"effectiveInstant":%q`, `"effectivePeriod":{"start":%q}`, `"effectivePeriod":{"end":%q}`, `"effectivePeriod":{"start":"2021","end":%q}`} {
					agrees(t, c, resource(t, R4(), fmt.Sprintf(`{"resourceType":"Observation",`+form+`}`, v)))
				}
			}
		}
	}
}

// Whatever unit of its kind a value is in, the ranges of both meet in base units.
func TestRangesOfQuantitiesHoldInEveryUnitOfTheirKind(t *testing.T) {
	units := []string{"mg", "g", "ug", "kg", "[lb_av]", "Cel", "[degF]", "K", "%", "1", "{score}", "10*-30", "Ym", "TAB", "mg/dL", "g/L"}
	numbers := []string{"0", "5", "5.4", "5000", "0.005", "-40", "98.6", "37", "310.15", "1e-305", "1e308", "-1e999", "123456789012345678901234567890"}
	matches := 0
	for _, want := range units {
		for _, number := range numbers {
			for _, prefix := range []string{"", "gt", "lt", "ge", "le", "sa", "eb", "ap"} {
				c := compiled(t, R4(), "Observation?value-quantity="+prefix+number+"|http://unitsofmeasure.org|"+strings.ReplaceAll(want, "%", "%25"))
				if len(c.Accesses()) == 0 {
					t.Fatalf("%s is not found", c)
				}
				for _, unit := range units {
					for _, v := range numbers {
						r := resource(t, R4(), fmt.Sprintf(`{"resourceType":"Observation","valueQuantity":{"value":%s,"system":"http://unitsofmeasure.org","code":%q}}`, v, unit))
						agrees(t, c, r)
						if c.Match(r) && unit != want {
							matches++
						}
					}
				}
			}
		}
	}
	if matches < 1000 {
		t.Errorf("%d matches of different units are a weak test", matches)
	}
}

func TestAFeatureThatAResourceCannotHaveGivesNothing(t *testing.T) {
	r := resource(t, R4(), `{"resourceType":"Patient","gender":"male","birthDate":"1980"}`)
	for _, q := range []string{"Observation?code=a", "Observation?date=2020", "Patient?name=x", "Patient?death-date=2020"} {
		f := compiled(t, R4(), q).Accesses()[0].Feature
		if _, ok := r.Range(f); ok || len(r.Hashes(f)) != 0 {
			t.Errorf("%s: a value", q)
		}
	}
	if _, ok := r.Range(feature(r, "gender")); ok {
		t.Error("a code has an order")
	}
	if _, ok := r.Range(Feature{}); ok || r.Hashes(Feature{}) != nil {
		t.Error("no feature has a value")
	}
}
