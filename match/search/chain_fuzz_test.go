package search

import (
	"errors"
	"testing"
)

// FuzzChains compiles criteria about other resources: none may panic, the canonical text means
// the same when it is compiled, and each is decided, by Decide as by Explain.
func FuzzChains(f *testing.F) {
	for _, s := range []string{
		"Observation?subject:Patient.name=peter", "Observation?subject.identifier=a|b", "Observation?patient.organization.partof.name:exact=x",
		"Patient?_has:Observation:subject:status=final", "Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=MyUserId",
		"Encounter?patient._has:Group:member:_id=102", "Patient?_list=42,43", "Observation?has-member:Observation.has-member.status:not=final",
		"Bundle?composition.patient.name=x", "List?item.subject.name=x", "Patient?_has:Observation:subject:value-quantity=gt5.4|http://unitsofmeasure.org|mg",
		"Observation?subject:Patient._has:Observation:subject:subject:Patient.birthdate=ge2020&_list=1", "Patient?_filter=organization.name eq \"x\"",
		"Observation?subject:Patient.name%3Aexact=a%2Cb", "Observation?subject.=", "Patient?_has:::=", "Observation?a.b.c.d.e.f.g=h",
	} {
		f.Add(s)
	}
	w := newWorld(
		`{"resourceType":"Patient","id":"p","name":[{"family":"Peter"}],"managingOrganization":{"reference":"Organization/g"},"contained":[{"resourceType":"Organization","id":"c","name":"x"}]}`,
		`{"resourceType":"Organization","id":"g","name":"x","partOf":{"reference":"Organization/g"}}`,
		`{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p"},"hasMember":[{"reference":"Observation/o"},{"reference":"#x"}]}`,
		`{"resourceType":"List","id":"42","entry":[{"item":{"reference":"Patient/p"}},{"item":{"reference":"Observation/o"}}]}`,
		`{"resourceType":"AuditEvent","id":"e","entity":[{"what":{"reference":"Observation/o"}}]}`,
		`{"resourceType":"Group","id":"102","member":[{"entity":{"reference":"Patient/p"}}]}`,
	)
	var all []*Resource
	for _, versions := range w.versions {
		all = append(all, beside(f, w, versions[0].body))
	}
	f.Fuzz(func(t *testing.T, criteria string) {
		c, err := chained.Compile(criteria)
		if err != nil {
			return
		}
		again, err := chained.Compile(c.Canonical())
		if err != nil || again.Canonical() != c.Canonical() {
			t.Fatalf("%q is %q, which is %v, %v", criteria, c.Canonical(), again, err)
		}
		for _, r := range all {
			r.Reset(r.Tree(), Envelope{})
			met, err := c.Decide(r)
			if err != nil && !errors.Is(err, ErrTooCostly) {
				t.Fatalf("%q: %v", criteria, err)
			}
			same, errAgain := again.Decide(r)
			if met != same || (err == nil) != (errAgain == nil) {
				t.Fatalf("%q is %v, and as %q %v", criteria, met, c.Canonical(), same)
			}
			all := true
			for _, x := range c.Explain(r) {
				all = all && x.Met
			}
			if err == nil && all != met {
				t.Fatalf("%q is %v, and explained as %v", criteria, met, all)
			}
		}
	})
}
