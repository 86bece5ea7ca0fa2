package search

import (
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// valueSet is the content of a ValueSet.
type valueSet struct {
	expansion  []include // the codes of an expansion that has all of them
	expanded   bool
	incomplete string // why an expansion that is there does not count
	hasCompose bool
	active     bool // compose.inactive is false: codes that are no longer in use are left out
	include    []include
	exclude    []include
}

// include is one part of a definition: codes of a system and of other value sets that are in
// all of them.
type include struct {
	system, version string
	codes           []string // listed ones
	filters         []codeFilter
	valueSets       []string
	unknown         string // a member that would change what the part means
}

type codeFilter struct{ property, op, value string }

func parseValueSet(body []byte) (*valueSet, error) {
	t, err := json.Parse(body, json.Limits{Bytes: max(1, len(body))})
	if err != nil {
		return nil, err
	}
	root := t.Root()
	v := &valueSet{}
	if c := t.Get(root, "compose"); t.Kind(c) == json.Object {
		v.hasCompose = true
		v.active = t.Kind(t.Get(c, "inactive")) == json.False
		for n := range t.Children(t.Get(c, "include")) {
			v.include = append(v.include, parseInclude(t, n))
		}
		for n := range t.Children(t.Get(c, "exclude")) {
			v.exclude = append(v.exclude, parseInclude(t, n))
		}
	}
	if x := t.Get(root, "expansion"); t.Kind(x) == json.Object {
		v.readExpansion(t, x)
	}
	return v, nil
}

func parseInclude(t *json.Tree, n json.Node) include {
	x := include{system: t.Str(t.Get(n, "system")), version: t.Str(t.Get(n, "version"))}
	for c := range t.Children(t.Get(n, "concept")) {
		if code := t.Str(t.Get(c, "code")); code != "" {
			x.codes = append(x.codes, code)
		}
	}
	for f := range t.Children(t.Get(n, "filter")) {
		x.filters = append(x.filters, codeFilter{t.Str(t.Get(f, "property")), t.Str(t.Get(f, "op")), t.Str(t.Get(f, "value"))})
	}
	for s := range t.Children(t.Get(n, "valueSet")) {
		x.valueSets = append(x.valueSets, t.Str(s))
	}
	if t.Get(n, "modifierExtension") != 0 {
		x.unknown = "a modifierExtension"
	}
	return x
}

// readExpansion takes the codes of an expansion, if it has all of them.
func (v *valueSet) readExpansion(t *json.Tree, x json.Node) {
	for _, e := range []string{"extension", "modifierExtension"} {
		for n := range t.Children(t.Get(x, e)) {
			switch url := t.Str(t.Get(n, "url")); url[strings.LastIndexByte(url, '/')+1:] {
			case "valueset-toocostly", "valueset-unclosed":
				v.incomplete = "it says that it has not all codes"
			}
		}
	}
	limit := -1 // of codes, as far as it was asked for
	for p := range t.Children(t.Get(x, "parameter")) {
		value := string(t.Raw(t.Get(p, "valueInteger")))
		switch t.Str(t.Get(p, "name")) {
		case "filter":
			v.incomplete = "it was made with a text filter"
		case "limitedExpansion": // as terminology servers call it
			if t.Bool(t.Get(p, "valueBoolean")) {
				v.incomplete = "it says that it has not all codes"
			}
		case "offset":
			if value != "" && value != "0" {
				v.incomplete = pageOfExpansion
			}
		case "count":
			if n, err := strconv.Atoi(value); err == nil {
				limit = n
			}
		}
	}
	if raw := string(t.Raw(t.Get(x, "offset"))); raw != "" && raw != "0" || t.Get(x, "next") != 0 {
		v.incomplete = pageOfExpansion
	}
	bySystem := map[string]*include{}
	n := v.readContains(t, t.Get(x, "contains"), bySystem)
	for _, s := range slices.Sorted(maps.Keys(bySystem)) {
		v.expansion = append(v.expansion, *bySystem[s])
	}
	switch total := string(t.Raw(t.Get(x, "total"))); {
	case total != "" && total != strconv.Itoa(n):
		v.incomplete = "it has other than its total of codes"
	case total == "" && limit >= 0 && n >= limit:
		v.incomplete = "it has as many codes as were asked for, and no total tells whether there are more"
	}
	v.expanded = v.incomplete == ""
}

const pageOfExpansion = "it is a page of a larger one"

// readContains takes the entries of an expansion and those below them, and counts them. An
// abstract entry stands for what is below it and is no code that can be used.
func (v *valueSet) readContains(t *json.Tree, list json.Node, bySystem map[string]*include) int {
	n := 0
	for c := range t.Children(list) {
		n++
		system, code := t.Str(t.Get(c, "system")), t.Str(t.Get(c, "code"))
		if code != "" && !t.Bool(t.Get(c, "abstract")) {
			if bySystem[system] == nil {
				bySystem[system] = &include{system: system}
			}
			bySystem[system].codes = append(bySystem[system].codes, code)
		}
		n += v.readContains(t, t.Get(c, "contains"), bySystem)
	}
	return n
}

// expanded is the result of one expansion.
type expanded struct {
	set     *codeSet
	uses    []string
	levels  int // of value sets within value sets, itself included
	handled int // what it cost
	err     error
}

// maxCached bounds the results that a Terminology keeps.
const maxCached = 10_000

// remember answers from the cache, or computes and keeps the answer.
func (t *Terminology) remember(key string, compute func() *expanded) *expanded {
	if t == nil {
		return compute()
	}
	t.mu.Lock()
	known := t.cache[key]
	t.mu.Unlock()
	if known != nil {
		return known
	}
	x := compute()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cache == nil {
		t.cache = map[string]*expanded{}
	}
	// Refusals are not kept: there is no end to what does not exist.
	if x.err == nil && len(t.cache) < maxCached {
		t.cache[key] = x
	}
	return x
}

// expander makes the sets of one criteria, and notes what they are made of. What it counts does
// not depend on what was remembered, so that every node refuses the same.
type expander struct {
	terminology *Terminology
	uses        map[string]bool
	stack       []string // value sets that are being expanded
	levels      int      // of those below the one at hand
	handled     int      // codes and concepts looked at
}

// maxNested bounds value sets within value sets.
const maxNested = 20

// named expands the value set of a canonical URL or ValueSet/id.
func (e *expander) named(ref string) (*codeSet, error) {
	x := e.terminology.remember(joinKey("in", ref), func() *expanded {
		inner := &expander{terminology: e.terminology, uses: map[string]bool{}, stack: e.stack}
		systems, err := inner.resolve(ref)
		if err != nil {
			return &expanded{err: err}
		}
		return &expanded{set: seal(systems), uses: slices.Collect(maps.Keys(inner.uses)), levels: 1 + inner.levels, handled: 1 + inner.handled}
	})
	if x.err != nil {
		return nil, x.err
	}
	return x.set, e.take(x)
}

// take counts what was remembered as if it had been done now.
func (e *expander) take(x *expanded) error {
	for _, u := range x.uses {
		e.uses[u] = true
	}
	e.levels = max(e.levels, x.levels)
	if e.handled += x.handled; e.handled > maxHandled {
		return tooManyCodes()
	}
	if len(e.stack)+x.levels > maxNested {
		return tooDeep()
	}
	return nil
}

func tooManyCodes() error {
	return unsupported("its value sets and code systems have more than %d codes together; divide the criteria among several Subscriptions", maxHandled)
}

func tooDeep() error {
	return unsupported("value sets include one another more than %d levels deep; store one with an expansion", maxNested)
}

// resolve finds a value set and expands it.
func (e *expander) resolve(ref string) (map[string]*codes, error) {
	url, version, _ := strings.Cut(ref, "|")
	e.uses[url] = true
	t := e.terminology
	var r *termResource
	if id, ok := strings.CutPrefix(ref, "ValueSet/"); ok && t != nil {
		r = t.byID.get("ValueSet/" + id)
	} else {
		r = t.find("ValueSet", url, version)
	}
	if r == nil {
		return e.implicit(ref, url, version)
	}
	key := "ValueSet/" + string(r.id)
	switch {
	case slices.Contains(e.stack, key):
		return nil, unsupported("%s includes itself", r.name())
	case len(e.stack) == maxNested:
		return nil, tooDeep()
	}
	e.stack = append(slices.Clone(e.stack), key)
	defer func() { e.stack = e.stack[:len(e.stack)-1] }()
	v, err := r.readValueSet()
	if err != nil {
		return nil, unsupported("%s cannot be read: %s", r.name(), err)
	}
	return e.content(r.name(), v)
}

// implicit answers for the value sets that code systems define without a ValueSet resource: all
// codes of a CodeSystem that names one, and those of SNOMED CT and LOINC (R4 and R5, pages
// "snomedct" and "loinc").
func (e *expander) implicit(ref, url, version string) (map[string]*codes, error) {
	if r := e.terminology.find("implicit", url, version); r != nil {
		e.uses[r.url] = true
		return e.system(include{system: r.url, version: r.version}, false)
	}
	if url == "http://loinc.org/vs" {
		return e.system(include{system: "http://loinc.org"}, false)
	}
	const snomed = "http://snomed.info/sct"
	switch what, ok := strings.CutPrefix(ref, snomed+"?fhir_vs"); {
	case ok && what == "":
		return e.system(include{system: snomed}, false)
	case ok && strings.HasPrefix(what, "=isa/"):
		return e.system(include{system: snomed, filters: []codeFilter{{"concept", "is-a", what[len("=isa/"):]}}}, false)
	}
	return nil, unsupported("ValueSet %s is not stored; write it to this server first, or list the codes", shown(ref))
}

// content expands a value set by its expansion if that has all codes, else by its definition.
func (e *expander) content(name string, v *valueSet) (map[string]*codes, error) {
	parts, exclude, active := v.include, v.exclude, v.active
	switch {
	case v.expanded:
		parts, exclude, active = v.expansion, nil, false
	case !v.hasCompose && v.incomplete != "":
		return nil, unsupported("%s has an expansion that cannot be used, because %s; store a complete one", name, v.incomplete)
	case !v.hasCompose:
		return nil, unsupported("%s has neither a compose nor an expansion", name)
	}
	out := map[string]*codes{}
	for _, p := range parts {
		more, err := e.part(name, p, active)
		if err != nil {
			return nil, err
		}
		for system, c := range more {
			e.handled += len(c.listed)
			if out[system] == nil {
				// A set of its own, which the next parts can be put into.
				out[system] = &codes{exact: c.exact, listed: map[string]struct{}{}}
			}
			out[system] = out[system].take(c)
		}
		if err := e.check(name, out); err != nil {
			return nil, err
		}
	}
	for _, p := range exclude {
		less, err := e.part(name, p, false)
		if err != nil {
			return nil, err
		}
		for system, c := range less {
			e.handled += len(c.listed)
			if out[system] != nil {
				e.handled += len(out[system].listed)
				out[system] = out[system].without(c)
			}
		}
		if err := e.check(name, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// check bounds what an expansion has and costs.
func (e *expander) check(name string, systems map[string]*codes) error {
	n := 0
	for _, c := range systems {
		n += len(c.listed)
	}
	if e.handled > maxHandled {
		return tooManyCodes()
	}
	if n > maxCodes {
		return unsupported("%s has more than %d codes; divide it, or ask for a whole code system by system|", name, maxCodes)
	}
	return nil
}

// part gives the codes of one include or exclude: those that are in its system's part and in
// each of its value sets.
func (e *expander) part(name string, p include, active bool) (map[string]*codes, error) {
	if p.unknown != "" {
		return nil, unsupported("%s has %s that is not understood", name, p.unknown)
	}
	var out map[string]*codes
	if p.system != "" {
		own, err := e.system(p, active)
		if err != nil {
			return nil, inValueSet(name, err)
		}
		out = own
	} else if len(p.codes)+len(p.filters) > 0 || len(p.valueSets) == 0 {
		return nil, unsupported("%s has a part that names neither a system nor a value set", name)
	}
	for _, ref := range p.valueSets {
		s, err := e.named(ref)
		if err != nil {
			return nil, inValueSet(name, err)
		}
		if out == nil {
			out = maps.Clone(s.systems)
			continue
		}
		both := map[string]*codes{}
		for system, c := range out {
			if o := s.systems[system]; o != nil {
				both[system] = c.common(o)
			}
		}
		out = both
	}
	if active && p.system == "" {
		return out, e.leaveInactive(name, out)
	}
	return out, nil
}

// leaveInactive takes the codes that are no longer in use out of what other value sets gave.
func (e *expander) leaveInactive(name string, systems map[string]*codes) error {
	for _, system := range slices.Sorted(maps.Keys(systems)) {
		e.uses[system] = true
		s, err := e.terminology.system(system, "")
		switch {
		case err != nil:
			return inValueSet(name, err)
		case s == nil:
			return inValueSet(name, unknownInactive(system))
		}
		if e.handled += len(s.concepts); e.handled > maxHandled {
			return tooManyCodes()
		}
		inactive := &codes{exact: systems[system].exact, listed: map[string]struct{}{}}
		for i := range s.concepts {
			if c := &s.concepts[i]; c.inactive() {
				inactive.listed[string(inactive.key(nil, []byte(c.code)))] = struct{}{}
			}
		}
		systems[system] = systems[system].without(inactive)
	}
	return nil
}

func unknownInactive(system string) error {
	return unsupported("compose.inactive is false, and which codes of %s are inactive is not known; store the CodeSystem, or a ValueSet with an expansion", shown(system))
}

// inValueSet says in which value set another one, or a system, was refused.
func inValueSet(name string, err error) error {
	if r, ok := err.(*refused); ok && !strings.HasPrefix(r.msg, name) {
		return &refused{r.typ, name + ": " + r.msg}
	}
	return err
}

// system gives the codes that a part takes of its system.
func (e *expander) system(p include, active bool) (map[string]*codes, error) {
	e.uses[p.system] = true
	t := e.terminology
	s, err := t.system(p.system, p.version)
	if err != nil {
		return nil, err
	}
	out := &codes{exact: t.exactCase(p.system), listed: map[string]struct{}{}}
	switch {
	case s == nil && len(p.filters) > 0:
		f := p.filters[0]
		return nil, unsupported("the filter %s %s needs a CodeSystem %s that is stored with content = complete; store it, or a ValueSet with an expansion",
			shown(f.property), shown(f.op), shown(canonical(p.system, p.version)))
	case s == nil && active:
		return nil, unknownInactive(p.system)
	case len(p.codes)+len(p.filters) == 0 && (s == nil || !active && len(s.concepts) > maxCodes):
		// The system is taken in whole: whatever code names it is one of its codes. So it is where
		// the codes are known and too many to be listed.
		out.all = true
		return map[string]*codes{p.system: out}, nil
	case len(p.codes) > 0 && len(p.filters) > 0:
		return nil, unsupported("a part with both concepts and filters is not allowed (vsd-3)")
	}
	if err := e.list(out, s, p, active); err != nil {
		return nil, err
	}
	return map[string]*codes{p.system: out}, nil
}

// list puts the codes of a part into out.
func (e *expander) list(out *codes, s *codeSystem, p include, active bool) error {
	add := func(code string) {
		out.listed[string(out.key(nil, []byte(code)))] = struct{}{}
	}
	if len(p.codes) > 0 {
		if e.handled += len(p.codes); e.handled > maxHandled {
			return tooManyCodes()
		}
		for _, code := range p.codes {
			if active {
				if at, ok := s.places[s.key(code)]; ok && s.concepts[at].inactive() {
					continue
				}
			}
			add(code)
		}
		return nil
	}
	tests, err := s.compileFilters(p.filters, &e.handled)
	if err != nil {
		return err
	}
	among, all := s.candidates(tests)
	n := len(among)
	if all {
		n = len(s.concepts)
	}
	if e.handled += n * (1 + len(tests)); e.handled > maxHandled {
		return tooManyCodes()
	}
	for i := range n {
		at := int32(i)
		if !all {
			at = among[i]
		}
		if e.handled > maxHandled {
			return tooManyCodes()
		}
		c := &s.concepts[at]
		if active && c.inactive() || slices.ContainsFunc(tests, func(test conceptTest) bool { return !test.met(at, c) }) {
			continue
		}
		add(c.code)
	}
	if e.handled > maxHandled {
		return tooManyCodes()
	}
	return nil
}

func canonical(url, version string) string {
	if version == "" {
		return url
	}
	return url + "|" + version
}

// conceptTest decides a filter for one concept.
type conceptTest struct {
	met   func(at int32, c *concept) bool
	among []int32 // those that can meet it at all
	all   bool    // every concept can
}

// candidates gives the concepts that can meet all tests: those of the test that fewest can
// meet, or all.
func (s *codeSystem) candidates(tests []conceptTest) (among []int32, all bool) {
	all = true
	for _, t := range tests {
		if !t.all && (all || len(t.among) < len(among)) {
			among, all = t.among, false
		}
	}
	return among, all
}

// compileFilters reads filters, which add to handled what they will have looked at.
func (s *codeSystem) compileFilters(filters []codeFilter, handled *int) ([]conceptTest, error) {
	var out []conceptTest
	for _, f := range filters {
		test, err := s.compileFilter(f, handled)
		if err != nil {
			return nil, err
		}
		out = append(out, test)
	}
	return out, nil
}

// compileFilter reads one filter (code system http://hl7.org/fhir/filter-operator).
func (s *codeSystem) compileFilter(f codeFilter, handled *int) (conceptTest, error) {
	switch f.op {
	case "is-a", "descendent-of", "is-not-a", "generalizes", "child-of", "descendent-leaf":
		return s.hierarchical(f)
	}
	if _, ok := s.values(&concept{}, f.property); !ok {
		return conceptTest{}, unsupported("%s has no property %s", s.name, shown(f.property))
	}
	any := func(test func(string) bool) func(int32, *concept) bool {
		return func(_ int32, c *concept) bool {
			values, _ := s.values(c, f.property)
			*handled += len(c.properties) + len(values)
			return slices.ContainsFunc(values, test)
		}
	}
	normal := s.normal(f.property)
	switch f.op {
	case "=":
		want := normal(f.value)
		return conceptTest{met: any(func(v string) bool { return normal(v) == want }), all: true}, nil
	case "in", "not-in":
		list := map[string]bool{}
		for v := range strings.SplitSeq(f.value, ",") {
			list[normal(strings.TrimSpace(v))] = true
		}
		in := any(func(v string) bool { return list[normal(v)] })
		return conceptTest{met: func(at int32, c *concept) bool { return in(at, c) == (f.op == "in") }, all: true}, nil
	case "exists":
		if f.value != "true" && f.value != "false" {
			return conceptTest{}, unsupported("the value of a filter exists must be true or false, not %s", shown(f.value))
		}
		there := any(func(string) bool { return true })
		return conceptTest{met: func(at int32, c *concept) bool { return there(at, c) == (f.value == "true") }, all: true}, nil
	case "regex":
		re, err := wholeRegexp(f.value)
		if err != nil {
			return conceptTest{}, err
		}
		return conceptTest{met: any(func(v string) bool {
			*handled += len(v)
			return re.MatchString(v)
		}), all: true}, nil
	}
	return conceptTest{}, unsupported("the filter operator %s is not supported; store a ValueSet with an expansion", shown(f.op))
}

// maxInstructions bounds a compiled regular expression: a letter of a text may cost as many
// steps as it has instructions.
const maxInstructions = 500

// wholeRegexp compiles a regular expression. The whole value has to match it, as in the
// implementations that the specification's editors write.
func wholeRegexp(expr string) (*regexp.Regexp, error) {
	whole := `\A(?:` + expr + `)\z`
	parsed, err := syntax.Parse(whole, syntax.Perl)
	if _, alone := syntax.Parse(expr, syntax.Perl); err != nil || alone != nil {
		return nil, unsupported("the regular expression %s is not one that is evaluated in linear time (RE2)", shown(expr))
	}
	if program, err := syntax.Compile(parsed.Simplify()); err != nil || len(program.Inst) > maxInstructions {
		return nil, unsupported("the regular expression %s is too large; store a ValueSet with an expansion", shown(expr))
	}
	return regexp.Compile(whole)
}

// normal says how values of a property are compared: codes of the system as it says itself,
// everything else exactly.
func (s *codeSystem) normal(property string) func(string) string {
	switch property {
	case "code", "concept", "parent", "child":
		return s.key
	}
	return func(v string) string { return v }
}

// hierarchical reads a filter that goes by the hierarchy.
func (s *codeSystem) hierarchical(f codeFilter) (conceptTest, error) {
	if f.property != "concept" && f.property != "code" {
		return conceptTest{}, unsupported("the filter operator %s is only understood for the property concept, not for %s", shown(f.op), shown(f.property))
	}
	if s.hierarchy != "" && s.hierarchy != "is-a" {
		return conceptTest{}, unsupported("the hierarchy of %s means %s and not is-a", s.name, shown(s.hierarchy))
	}
	root, ok := s.places[s.key(f.value)]
	if !ok {
		return conceptTest{}, unsupported("%s has no code %s", s.name, shown(f.value))
	}
	list := s.concepts[root].children
	if f.op != "child-of" {
		list = s.closure(root, f.op == "generalizes")
	}
	in := make(map[int32]bool, len(list))
	for _, at := range list {
		in[at] = true
	}
	out := conceptTest{met: func(at int32, _ *concept) bool { return in[at] }, among: list}
	switch f.op {
	case "descendent-of":
		delete(in, root)
	case "descendent-leaf":
		out.met = func(at int32, c *concept) bool { return in[at] && at != root && len(c.children) == 0 }
	case "is-not-a":
		out = conceptTest{met: func(at int32, _ *concept) bool { return !in[at] }, all: true}
	}
	return out, nil
}

// hierarchy gives a code and all those above or below it, for :above and :below: "is-a, or
// hierarchical relationships" (R4 3.1.1.4.10), so whatever the system's hierarchy means.
func (e *expander) hierarchy(system, code string, above bool) (*codeSet, error) {
	e.uses[system] = true
	t := e.terminology
	direction := "below"
	if above {
		direction = "above"
	}
	x := t.remember(joinKey(direction, system, code), func() *expanded {
		set, err := t.closure(system, code, above)
		if err != nil {
			return &expanded{err: err}
		}
		return &expanded{set: set, uses: []string{system}, handled: set.size()}
	})
	if x.err != nil {
		return nil, x.err
	}
	return x.set, e.take(x)
}

// closure gives a code of a stored system and all those above or below it.
func (t *Terminology) closure(system, code string, above bool) (*codeSet, error) {
	s, err := t.system(system, "")
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, unsupported("the hierarchy of %s is not known here: no CodeSystem with this URL and content = complete is stored; store it, or list the codes", shown(system))
	}
	root, ok := s.places[s.key(code)]
	if !ok {
		return nil, refusal("%s has no code %s", s.name, shown(code))
	}
	found := s.closure(root, above)
	if len(found) > maxCodes {
		return nil, unsupported("more than %d codes of %s are meant", maxCodes, s.name)
	}
	out := &codes{exact: t.exactCase(system), listed: map[string]struct{}{}}
	for _, at := range found {
		out.listed[string(out.key(nil, []byte(s.concepts[at].code)))] = struct{}{}
	}
	return seal(map[string]*codes{system: out}), nil
}
