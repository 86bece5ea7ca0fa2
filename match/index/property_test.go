package index_test

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// parameters are what random criteria ask for, by type.
var parameters = map[string]string{
	"Patient": "_id:token identifier:token gender:token birthdate:date name:string family:string given:string address-state:string " +
		"address-city:string telecom:token deceased:token death-date:date _lastUpdated:date _tag:token _profile:uri language:token",
	"Observation": "_id:token code:token status:token category:token subject:reference patient:reference encounter:reference date:date " +
		"value-quantity:quantity value-concept:token value-string:string component-value-quantity:quantity combo-code:token _tag:token _profile:uri",
	"Encounter": "identifier:token class:token status:token type:token date:date subject:reference participant:reference service-provider:reference " +
		"length:quantity reason-code:token",
	"Condition":         "code:token clinical-status:token onset-date:date abatement-date:date subject:reference encounter:reference",
	"Task":              "owner:reference status:token priority:token patient:reference code:token authored-on:date",
	"MedicationRequest": "code:token status:token intent:token authoredon:date subject:reference encounter:reference",
	"Claim":             "status:token patient:reference created:date provider:reference identifier:token use:token",
}

// world is the sample of the search package, and what its resources have for each parameter.
var world = sync.OnceValue(func() (w struct {
	bodies map[string][]string
	values map[string][]string // by type?parameter
}) {
	f, err := os.Open("../search/testdata/sample-r4.ndjson.gz")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		panic(err)
	}
	w.bodies, w.values = map[string][]string{}, map[string][]string{}
	s := bufio.NewScanner(z)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		tree, err := json.Parse([]byte(s.Text()), json.Limits{})
		if err != nil {
			panic(err)
		}
		r := search.NewResource(search.R4(), tree)
		typ := r.Type()
		if parameters[typ] == "" || len(w.bodies[typ]) >= 30 {
			continue
		}
		w.bodies[typ] = append(w.bodies[typ], s.Text())
		for p := range strings.FieldsSeq(parameters[typ]) {
			code, _, _ := strings.Cut(p, ":")
			c, err := search.R4().Compile(typ + "?" + code + ":missing=false")
			if err != nil {
				panic(err)
			}
			key := typ + "?" + code
			w.values[key] = append(w.values[key], c.Explain(r)[1].Found...)
		}
	}
	for key := range w.values {
		slices.Sort(w.values[key])
		w.values[key] = slices.Compact(w.values[key])
	}
	return w
})

var numeral = regexp.MustCompile(`"value":\s*(-?[0-9.]+)`)

// drawCriteria makes a criteria of real parameters and of values that are in the sample, whole,
// in part or altered.
func drawCriteria(t *rapid.T, types []string) *search.Criteria {
	for {
		typ := rapid.SampledFrom(types).Draw(t, "type")
		if rapid.IntRange(0, 29).Draw(t, "of types") == 0 {
			return must(search.R4().Compile(rapid.SampledFrom([]string{"[*]", "[Patient,Task]", "Patient", "Observation?"}).Draw(t, "list")))
		}
		var parts []string
		code := ""
		for range rapid.IntRange(1, 4).Draw(t, "conditions") {
			if code == "" || rapid.IntRange(0, 2).Draw(t, "another parameter") > 0 { // or two limits of one
				code = rapid.SampledFrom(strings.Fields(parameters[typ])).Draw(t, "parameter")
			}
			parts = append(parts, drawCondition(t, typ, code))
		}
		if c, err := search.R4().Compile(typ + "?" + strings.Join(parts, "&")); err == nil {
			return c
		}
	}
}

func must(c *search.Criteria, err error) *search.Criteria {
	if err != nil {
		panic(err)
	}
	return c
}

func drawCondition(t *rapid.T, typ, parameter string) string {
	code, kind, _ := strings.Cut(parameter, ":")
	if rapid.IntRange(0, 9).Draw(t, "missing") == 0 {
		return fmt.Sprintf("%s:missing=%v", code, rapid.Bool().Draw(t, "wanted"))
	}
	modifiers := map[string][]string{
		"token": {"", "", "", ":not"}, "string": {"", "", ":exact", ":contains"}, "reference": {"", "", "", ":identifier"},
		"date": {""}, "quantity": {""}, "uri": {""},
	}
	modifier := rapid.SampledFrom(modifiers[kind]).Draw(t, "modifier")
	var values []string
	for range rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(t, "values") {
		values = append(values, url.QueryEscape(drawValue(t, typ+"?"+code, kind)))
	}
	return code + modifier + "=" + strings.Join(values, ",")
}

func drawValue(t *rapid.T, key, kind string) string {
	known := world().values[key]
	v := "none"
	if len(known) > 0 {
		v = rapid.SampledFrom(known).Draw(t, "value")
	}
	prefix := rapid.SampledFrom([]string{"", "", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"}).Draw(t, "prefix")
	form := rapid.IntRange(0, 5).Draw(t, "form")
	quote := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`).Replace
	switch kind {
	case "token":
		system, code, two := strings.Cut(v, "|")
		if !two {
			return quote(v)
		}
		return [...]string{quote(code), quote(code), quote(system) + "|" + quote(code), "|" + quote(code), quote(system) + "|", quote(strings.ToUpper(code))}[form]
	case "string":
		runes := []rune(v)
		return quote([...]string{v, v, string(runes[:1+len(runes)/3]), string(runes[len(runes)/2:]), strings.ToUpper(v), v + "x"}[form])
	case "reference":
		return quote([...]string{v, v, v, v[strings.LastIndexByte(v, '/')+1:], v + "x", v}[form])
	case "date":
		if i := strings.IndexByte(v, '"'); i >= 0 { // a period, as it is written
			v = regexp.MustCompile(`[0-9]{4}(-[0-9-]*[0-9])?`).FindString(v)
		}
		return prefix + v[:min(len(v), [...]int{4, 7, 10, 10, 100, 7}[form])]
	case "quantity":
		n := "7"
		if m := numeral.FindStringSubmatch(v); m != nil {
			n = m[1]
		}
		if i := strings.IndexByte(n, '.'); i > 0 && form%2 == 0 {
			n = n[:i] // less precise
		}
		return prefix + n + [...]string{"", "", "", "||mg", "|http://unitsofmeasure.org|kg", "||{score}"}[form]
	}
	return quote(v)
}

var member = regexp.MustCompile(`"(code|value|reference|gender|status|family|birthDate|start|end|system|city|state|effectiveDateTime|authoredOn)":("[^"\\]*"|-?[0-9.]+)`)

// drawBody takes a resource of the sample, and mostly alters it: an element is left out, or has
// the value that it has in another resource of the type.
func drawBody(t *rapid.T, types []string) string {
	bodies := world().bodies[rapid.SampledFrom(types).Draw(t, "type of body")]
	body := rapid.SampledFrom(bodies).Draw(t, "body")
	for range rapid.IntRange(0, 3).Draw(t, "changes") {
		places := member.FindAllStringSubmatchIndex(body, -1)
		if len(places) == 0 {
			break
		}
		at := rapid.SampledFrom(places).Draw(t, "place")
		name, value := body[at[2]:at[3]], "null"
		if rapid.Bool().Draw(t, "exchange") {
			for _, m := range member.FindAllStringSubmatch(rapid.SampledFrom(bodies).Draw(t, "other body"), -1) {
				if m[1] == name {
					value = m[2]
				}
			}
		}
		if old := body[at[4]:at[5]]; (name == "birthDate" || name == "effectiveDateTime" || name == "family") && rapid.Bool().Draw(t, "both") {
			value = "[" + old + "," + value + "]" // what should not repeat is read as if it may
		}
		body = body[:at[4]] + value + body[at[5]:]
	}
	return body
}

// model is the list of all versions that the index must be as good as.
type model struct {
	mu      sync.RWMutex
	entries []*index.Entry
	seq     record.Sequence // newest change that the index has
	pruned  record.Sequence
}

func (m *model) inForce(id fhir.ID) *index.Entry {
	for _, e := range m.entries {
		if e.ID == id && e.Until == 0 {
			return e
		}
	}
	return nil
}

// scan asks every version.
func (m *model) scan(at record.Sequence, i fhir.Interaction, r *search.Resource) []index.Hit {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var hits []index.Hit
	for _, e := range m.entries {
		if e.InForce(at, time.Time{}) && slices.Contains(e.Interactions, i) && e.Criteria.Match(r) {
			hits = append(hits, index.Hit{ID: e.ID, Birth: e.Birth, Version: e.Version})
		}
	}
	slices.SortFunc(hits, func(a, b index.Hit) int { return cmp.Compare(a.ID, b.ID) })
	return hits
}

// step changes the index and then the model.
type step struct {
	id       fhir.ID
	criteria *search.Criteria // nil: closed
	hears    int
	back     uint64 // how far behind the newest change is pruned; 0: not
}

func drawStep(t *rapid.T, pool []*search.Criteria) step {
	s := step{id: fhir.ID(fmt.Sprintf("s%02d", rapid.IntRange(0, 39).Draw(t, "id")))}
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0:
	case 1:
		s.back = rapid.Uint64Range(1, 30).Draw(t, "back")
	default:
		s.criteria = rapid.SampledFrom(pool).Draw(t, "criteria")
		s.hears = rapid.SampledFrom([]int{3, 3, 3, 2, 1}).Draw(t, "hears")
	}
	return s
}

// apply prunes no further than limit.
func (m *model) apply(x *index.Index, s step, limit record.Sequence) {
	seq := m.seq + 1
	switch {
	case s.back > 0:
		below := min(m.seq-min(m.seq, record.Sequence(s.back)), limit)
		x.Prune(below)
		m.mu.Lock()
		m.pruned = max(m.pruned, below)
		m.mu.Unlock()
		return
	case s.criteria == nil:
		x.Close(s.id, seq)
	default:
		x.Put(index.Entry{ID: s.id, Birth: 1, Version: seq, Interactions: all[:s.hears], Criteria: s.criteria})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.inForce(s.id); old != nil {
		old.Until = seq
	}
	if s.criteria != nil {
		m.entries = append(m.entries, &index.Entry{ID: s.id, Birth: 1, Version: seq, Interactions: all[:s.hears], Criteria: s.criteria})
	}
	m.seq = seq
}

// drawPool makes criteria and events of few types, so that they have to do with one another.
func drawPool(t *rapid.T) (criteria []*search.Criteria, bodies []string) {
	types := rapid.SliceOfN(rapid.SampledFrom(slices.Sorted(maps.Keys(parameters))), 1, 2).Draw(t, "types")
	for range rapid.IntRange(1, 60).Draw(t, "pool") {
		criteria = append(criteria, drawCriteria(t, types))
	}
	for range rapid.IntRange(1, 12).Draw(t, "events") {
		bodies = append(bodies, drawBody(t, types))
	}
	return criteria, bodies
}

// TestTheIndexFindsWhatAskingEveryCriteriaFinds holds Match of the index, Match of each criteria
// and Explain against one another, at random places of the log and while groups move.
func TestTheIndexFindsWhatAskingEveryCriteriaFinds(t *testing.T) {
	var events, met, moves int
	rapid.Check(t, func(t *rapid.T) {
		x := index.New()
		if rapid.Bool().Draw(t, "impatient") {
			x.Impatient()
		}
		criteria, bodies := drawPool(t)
		var resources []*search.Resource
		for _, b := range bodies {
			resources = append(resources, resource(t, b))
		}
		m := &model{}
		for range rapid.IntRange(10, 150).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "change") {
				m.apply(x, drawStep(t, criteria), m.seq)
				continue
			}
			at := record.Sequence(rapid.Uint64Range(uint64(m.pruned)+1, uint64(m.seq)+1).Draw(t, "at"))
			i := rapid.SampledFrom(all).Draw(t, "interaction")
			for _, r := range resources {
				want, got := m.scan(at, i, r), x.Match(at, time.Time{}, i, r, nil, nil)
				if !slices.Equal(got, want) {
					t.Fatalf("event %d meets %v, want %v: %s", at, got, want, r.Tree().Source())
				}
				events, met = events+1, met+len(got)
			}
		}
		for _, c := range criteria {
			for _, r := range resources {
				explained := !slices.ContainsFunc(c.Explain(r), func(x search.Condition) bool { return !x.Met })
				if explained != c.Match(r) {
					t.Fatalf("%s: Explain says %v: %s", c, explained, r.Tree().Source())
				}
			}
		}
		moves += int(x.Moves())
	})
	if events > 1000 && (met < events/4 || moves < 20) {
		t.Errorf("%d events with %d matches and %d moves prove little", events, met, moves)
	}
}

// TestReadersFindTheSameWhileOneWriterChangesAndGroupsMove has readers at old places of the log
// beside a writer who puts, closes and prunes.
func TestReadersFindTheSameWhileOneWriterChangesAndGroupsMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := index.New().Impatient()
		criteria, bodies := drawPool(t)
		var steps []step
		for range rapid.IntRange(20, 120).Draw(t, "steps") {
			steps = append(steps, drawStep(t, criteria))
		}
		seed := rapid.Uint64().Draw(t, "seed")
		m := &model{}
		var reads [3]atomic.Uint64 // where each reader is; 0: nowhere
		var wg sync.WaitGroup
		var stop atomic.Bool
		var wrong atomic.Pointer[string]
		for n := range reads {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			var own []*search.Resource
			for _, b := range bodies {
				own = append(own, resource(t, b))
			}
			wg.Go(func() {
				for !stop.Load() {
					m.mu.RLock()
					at := m.pruned + 1 + record.Sequence(random.Uint64N(uint64(m.seq-m.pruned)+1))
					reads[n].Store(uint64(at))
					m.mu.RUnlock()
					r, i := own[random.IntN(len(own))], all[random.IntN(len(all))]
					got := x.Match(at, time.Time{}, i, r, nil, nil)
					reads[n].Store(0)
					if want := m.scan(at, i, r); !slices.Equal(got, want) {
						s := fmt.Sprintf("event %d meets %v, want %v: %s", at, got, want, r.Tree().Source())
						wrong.Store(&s)
						return
					}
				}
			})
		}
		for _, s := range steps {
			m.mu.Lock() // no reader chooses its place now
			limit := m.seq
			for n := range reads {
				if at := reads[n].Load(); at != 0 {
					limit = min(limit, record.Sequence(at)-1)
				}
			}
			if s.back > 0 {
				m.pruned = max(m.pruned, min(limit, m.seq-min(m.seq, record.Sequence(s.back))))
				limit = m.pruned
			}
			m.mu.Unlock()
			m.apply(x, s, limit)
		}
		stop.Store(true)
		wg.Wait()
		if s := wrong.Load(); s != nil {
			t.Fatal(*s)
		}
	})
}
