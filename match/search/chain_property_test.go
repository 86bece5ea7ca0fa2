package search

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// The model of the property test: resources with one token and references, in versions.
type (
	modelLink struct {
		param string // search parameter
		to    string // type
	}
	modelState struct {
		token string
		refs  map[string][]fhir.Key // by search parameter
	}
	modelWorld struct {
		versions map[fhir.Key][]modelVersion
		fail     map[fhir.Key]bool
	}
	modelVersion struct {
		at    int
		state *modelState // nil: deleted
	}
	// modelStep goes from one resource to others: along a reference, or back along one.
	modelStep struct {
		param string
		typ   string // of the resources that it leads to
		back  bool
	}
)

var (
	modelTypes  = []string{"Observation", "Patient", "Organization"}
	modelTokens = map[string][3]string{ // search parameter and values
		"Observation": {"status", "final", "amended"}, "Patient": {"gender", "male", "female"}, "Organization": {"active", "true", "false"},
	}
	modelLinks = map[string][]modelLink{
		"Observation":  {{"subject", "Patient"}, {"has-member", "Observation"}},
		"Patient":      {{"organization", "Organization"}},
		"Organization": {{"partof", "Organization"}},
	}
)

// steps lists where a type leads.
func modelSteps(typ string) (steps []modelStep) {
	for _, l := range modelLinks[typ] {
		steps = append(steps, modelStep{l.param, l.to, false})
	}
	for _, from := range modelTypes {
		for _, l := range modelLinks[from] {
			if l.to == typ {
				steps = append(steps, modelStep{l.param, from, true})
			}
		}
	}
	return steps
}

func (s *modelState) body(key fhir.Key) string {
	list := func(param string) string {
		var out []string
		for _, to := range s.refs[param] {
			out = append(out, fmt.Sprintf(`{"reference":%q}`, to))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	one := func(param string) string { return strings.Trim(list(param), "[]") }
	head := fmt.Sprintf(`{"resourceType":%q,"id":%q`, key.Type, key.ID)
	switch key.Type {
	case "Observation":
		head += fmt.Sprintf(`,"status":%q,"hasMember":%s`, s.token, list("has-member"))
		if subject := one("subject"); subject != "" {
			head += `,"subject":` + subject
		}
	case "Patient":
		head += fmt.Sprintf(`,"gender":%q`, s.token)
		if org := one("organization"); org != "" {
			head += `,"managingOrganization":` + org
		}
	case "Organization":
		head += `,"active":` + s.token
		if part := one("partof"); part != "" {
			head += `,"partOf":` + part
		}
	}
	return head + "}"
}

func (w *modelWorld) at(key fhir.Key, at int) (s *modelState) {
	for _, v := range w.versions[key] {
		if v.at <= at {
			s = v.state
		}
	}
	return s
}

// truth is what a criteria can be.
type truth int

const (
	no truth = iota
	unknown
	yes
)

// decide says what a path is from a resource on: the greatest of what it is for the resources
// that its first step leads to, since one of them is enough.
func (w *modelWorld) decide(self, key fhir.Key, at int, path []modelStep, value string) truth {
	s := w.at(key, at)
	if w.fail[key] && key != self {
		return unknown
	}
	if s == nil {
		return no
	}
	if len(path) == 0 {
		if s.token == value {
			return yes
		}
		return no
	}
	best := no
	for _, next := range w.next(self, key, at, path[0]) {
		best = max(best, w.decide(self, next, at, path[1:], value))
	}
	return best
}

// next lists where a step leads. Of what cannot be read nobody knows whether it refers to this
// one, if it ever did.
func (w *modelWorld) next(self, key fhir.Key, at int, step modelStep) []fhir.Key {
	if !step.back {
		return w.at(key, at).refs[step.param]
	}
	var out []fhir.Key
	for from, versions := range w.versions {
		if from.Type != step.typ {
			continue
		}
		ever := slices.ContainsFunc(versions, func(v modelVersion) bool {
			if v.state == nil {
				return false
			}
			for _, refs := range v.state.refs { // the index knows no parameters
				if slices.Contains(refs, key) {
					return true
				}
			}
			return false
		})
		s := w.at(from, at)
		now := s != nil && slices.Contains(s.refs[step.param], key)
		if now || ever && w.fail[from] && from != self {
			out = append(out, from)
		}
	}
	return out
}

// criteria writes a path as a search parameter.
func modelCriteria(typ string, path []modelStep, value string) string {
	name := ""
	at := typ
	for i, s := range path {
		if s.back {
			name += "_has:" + s.typ + ":" + s.param + ":"
		} else {
			name += s.param + ":" + s.typ + "."
		}
		at = path[i].typ
	}
	return typ + "?" + name + modelTokens[at][0] + "=" + value
}

// Chains in all directions, at all places, with parts of the world that cannot be read, decide
// what the model says, and what is met or cannot be decided is found by an index.
func TestChainsDecideWhatTheModelSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		model := &modelWorld{versions: map[fhir.Key][]modelVersion{}, fail: map[fhir.Key]bool{}}
		w := newWorld()
		key := func(typ string) fhir.Key {
			return fhir.Key{Type: typ, ID: fhir.ID(fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "id")))}
		}
		last := rapid.IntRange(1, 40).Draw(t, "events")
		for at := 1; at <= last; at++ {
			k := key(rapid.SampledFrom(modelTypes).Draw(t, "type"))
			if rapid.IntRange(0, 7).Draw(t, "delete") == 0 {
				model.versions[k] = append(model.versions[k], modelVersion{at, nil})
				w.remove(at, k)
				continue
			}
			s := &modelState{token: modelTokens[k.Type][1+rapid.IntRange(0, 1).Draw(t, "token")], refs: map[string][]fhir.Key{}}
			for _, l := range modelLinks[k.Type] {
				most := 1
				if l.param == "has-member" {
					most = 3
				}
				for range rapid.IntRange(0, most).Draw(t, "refs") {
					s.refs[l.param] = append(s.refs[l.param], key(l.to))
				}
			}
			model.versions[k] = append(model.versions[k], modelVersion{at, s})
			w.write(at, s.body(k))
		}
		for range rapid.IntRange(0, 2).Draw(t, "failures") {
			k := key(rapid.SampledFrom(modelTypes).Draw(t, "failing"))
			model.fail[k] = true
			w.fail[k] = fmt.Errorf("%w: the test says so", ErrUnanswered)
		}
		for range 10 {
			w.at = rapid.IntRange(1, last).Draw(t, "at")
			self := key(rapid.SampledFrom(modelTypes).Draw(t, "self"))
			s := model.at(self, w.at)
			if s == nil {
				continue
			}
			r := beside(t, w, s.body(self))
			for range 3 { // the later ones find what was kept
				var path []modelStep
				for typ := self.Type; len(path) < rapid.IntRange(1, maxDepth).Draw(t, "length"); typ = path[len(path)-1].typ {
					path = append(path, rapid.SampledFrom(modelSteps(typ)).Draw(t, "step"))
				}
				value := modelTokens[path[len(path)-1].typ][1+rapid.IntRange(0, 1).Draw(t, "value")]
				criteria := modelCriteria(self.Type, path, value)
				c := chainedCriteria(t, criteria)
				met, err := c.Decide(r)
				got := no
				switch {
				case met:
					got = yes
				case errors.Is(err, ErrUnanswered):
					got = unknown
				case err != nil:
					t.Fatalf("%s: %v", criteria, err)
				}
				if want := model.decide(self, self, w.at, path, value); got != want {
					t.Fatalf("%s of %s at %d is %d, want %d (%v)", criteria, self, w.at, got, want, err)
				}
				for _, a := range c.Accesses() {
					if got != no && !finds(a, r) {
						t.Fatalf("%s of %s at %d is not found by %s", criteria, self, w.at, a.Feature)
					}
				}
			}
		}
	})
}
