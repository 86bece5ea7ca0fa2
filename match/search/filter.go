package search

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/ucum"
)

// A filterTree is the value of _filter (R4 3.1.3, R5 3.2.3): comparisons of parameters, joined by
// and, or and not (...). Each comparison is made of an ordinary condition, so that parameters
// are read and values understood as everywhere else; where no ordinary condition says what an
// operator says, a test of the single values is put beside it.
type filterTree struct {
	join   junction
	parts  []*filterTree // of and, or: two or more; of not: one
	leaf   *comparison
	text   string // canonical
	leaves int    // comparisons in it
	linked bool   // one of them asks for other resources
}

type junction uint8

const (
	joinNone junction = iota // a comparison
	joinAnd
	joinOr
	joinNot
)

// each shows the conditions of the comparisons.
func (f *filterTree) each(visit func(*condition)) {
	for _, p := range f.parts {
		p.each(visit)
	}
	if f.leaf != nil {
		visit(f.leaf.condition)
	}
}

// comparison is path operator value.
type comparison struct {
	path      string
	condition *condition
	implied   bool // what meets the comparison meets the condition too, so an index may go by it

	// test decides one value of the resource, by its place in the arena of its kind, and cost
	// is what that costs at most; nil: the condition decides.
	test func(r *Resource, i int32) bool
	cost func(r *Resource, i int32) int
}

// Bounds of a filter.
const (
	maxFilterDepth  = 16 // parentheses within one another
	maxFilterLeaves = 64
)

// filterParam stands where a condition has its parameter.
var filterParam = &param{code: "_filter", kind: kindSpecial}

// filterOperators lists the operators of the specification, and those that a kind of parameter
// takes (R4 3.1.3.2). "eq" and "ne" of references, and all of uris, are not in its table; they
// mean what they say.
var (
	filterOperators = strings.Fields("eq ne co sw ew gt lt ge le ap sa eb pr po ss sb in ni re")
	filterKinds     = map[kind][]string{
		kindString:    strings.Fields("eq ne co sw ew gt lt ge le pr"),
		kindNumber:    strings.Fields("eq ne co gt lt ge le ap sa eb pr"),
		kindQuantity:  strings.Fields("eq ne gt lt ge le ap sa eb pr"),
		kindDate:      strings.Fields("eq ne co gt lt ge le ap sa eb po pr"),
		kindToken:     strings.Fields("eq ne ss sb in ni pr"),
		kindReference: strings.Fields("eq ne re pr"),
		kindURI:       strings.Fields("eq ne pr"),
	}
)

// filterSystems are the short names that a filter may use for code systems (R4 3.1.3.2, notes).
var filterSystems = map[string]string{
	"loinc":  "http://loinc.org",
	"snomed": "http://snomed.info/sct",
	"rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
	"ucum":   ucum.System,
}

// filter compiles the value of _filter, without its percent-encoding.
func (c *compiler) filter(source, value string) (*condition, error) {
	p := filterParser{compiler: c, text: value, source: source}
	f, err := p.expression()
	switch {
	case err != nil:
		return nil, err
	case p.at < len(p.text):
		return nil, p.refuse("only \"and\" or \"or\" may follow a comparison; a value with spaces is written in double quotes")
	}
	return &condition{param: filterParam, source: source, text: "_filter=" + encode(f.text), wants: &wants{filter: f}}, nil
}

// elsewhere reports whether a condition asks for other resources.
func (c *condition) elsewhere() bool {
	return c.linked != nil || c.filter != nil && c.filter.linked
}

// filterRun is one evaluation of a filter.
type filterRun struct {
	r     *Resource
	steps int   // that each comparison has
	spent int   // by all of them
	why   error // one of them could not be decided
}

// metFilter is met for a filter. Its comparisons have the steps in equal shares. Afterwards r
// tells of the whole filter what it tells after any condition.
func (c *condition) metFilter(r *Resource, steps int) (met, ok bool) {
	run := filterRun{r: r, steps: steps / c.filter.leaves}
	met, ok = run.met(c.filter)
	r.spent, r.limit, r.missed = min(run.spent, steps), steps, nil
	switch {
	case ok:
	case run.why == ErrTooCostly:
		r.spent = steps + 1
	default:
		r.missed = run.why
	}
	return met, ok
}

// met decides a part of a filter. What is known decides even where something else could not be
// found out, so the order of parts does not matter.
func (x *filterRun) met(f *filterTree) (met, ok bool) {
	switch f.join {
	case joinNone:
		met, ok = f.leaf.met(x.r, x.steps)
		x.spent += min(x.r.spent, x.steps)
		if !ok {
			x.why = worse(x.why, x.r.undecided())
		}
		return met, ok
	case joinNot:
		met, ok = x.met(f.parts[0])
		return ok && !met, ok
	}
	decisive := f.join == joinOr
	ok = true
	for _, p := range f.parts {
		switch m, known := x.met(p); {
		case !known:
			ok = false
		case m == decisive:
			return decisive, true
		}
	}
	return ok && !decisive, ok
}

func (x *comparison) met(r *Resource, steps int) (met, ok bool) {
	if x.test == nil {
		return x.condition.met(r, steps)
	}
	s := r.valuesAs(x.condition.param, x.condition.view)
	if s.fault {
		return r.fails(steps)
	}
	r.spent, r.limit, r.missed = 0, steps, nil
	for i := s.from; i < s.to; i++ {
		if !r.spend(x.cost(r, i)) {
			return false, false
		}
		if x.test(r, i) {
			return true, true
		}
	}
	return false, true
}

// best gives what every resource that meets the filter has: the most selective of the ways by
// which those comparisons can be found that must all hold. The number is 0 if there is none.
func (f *filterTree) best(in *Criteria) (a Access, weight int) {
	switch f.join {
	case joinNone:
		if f.leaf.implied {
			return f.leaf.condition.best(in)
		}
	case joinAnd:
		for _, p := range f.parts {
			if b, w := p.best(in); w > weight {
				a, weight = b, w
			}
		}
	}
	return a, weight
}

// explainFilter says what a filter came to, with the values that its comparisons looked at.
func (c *condition) explainFilter(r *Resource, steps int) Condition {
	met, ok := c.metFilter(r, steps)
	out := Condition{Text: c.source, Met: met}
	switch {
	case met:
	case !ok:
		out.Note = r.undecided().Error()
	default:
		out.Note = "the filter is false for what the resource has"
	}
	c.filter.found(r, steps/c.filter.leaves, &out)
	return out
}

func (f *filterTree) found(r *Resource, steps int, out *Condition) {
	for _, p := range f.parts {
		p.found(r, steps, out)
	}
	if f.leaf == nil {
		return
	}
	c := f.leaf.condition
	var list []string
	if c.linked != nil {
		list = c.explainElsewhere(r, steps).Found
	} else {
		list = c.found(r, r.valuesAs(c.param, c.view))
	}
	for _, v := range list {
		if v = f.leaf.path + ": " + v; !slices.Contains(out.Found, v) {
			out.find(v)
		}
	}
}

// filterParser reads a filter by the grammar of R4 3.1.3.1.
type filterParser struct {
	compiler *compiler
	source   string
	text     string
	at       int
	depth    int
	leaves   int
}

func (p *filterParser) refuse(format string, args ...any) error {
	return p.located(p.at, refusal(format, args...))
}

// located says where in the filter a refusal applies.
func (p *filterParser) located(at int, err error) error {
	if r, ok := err.(*refused); ok {
		return &refused{r.typ, fmt.Sprintf("at position %d of the filter: %s", at+1, r.msg)}
	}
	return err
}

func (p *filterParser) spaces() {
	for p.at < len(p.text) {
		c, n := utf8.DecodeRuneInString(p.text[p.at:])
		if !unicode.IsSpace(c) {
			return
		}
		p.at += n
	}
}

// name reads a path or a keyword; empty if there is none.
func (p *filterParser) name() string {
	from := p.at
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '_', c == '-', c == '.', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			p.at++
		default:
			return p.text[from:p.at]
		}
	}
	return p.text[from:]
}

// keyword takes a word if it is the next one.
func (p *filterParser) keyword(word string) bool {
	at := p.at
	if p.name() == word {
		return true
	}
	p.at = at
	return false
}

// expression reads operands joined by and and or, which bind alike, from left to right.
func (p *filterParser) expression() (*filterTree, error) {
	f, err := p.operand()
	for err == nil {
		p.spaces()
		j := joinAnd
		switch {
		case p.keyword("and"):
		case p.keyword("or"):
			j = joinOr
		default:
			return f, nil
		}
		var o *filterTree
		if o, err = p.operand(); err == nil {
			f = joined(j, f, o)
		}
	}
	return nil, err
}

// operand reads (filter), not (filter) or a comparison.
func (p *filterParser) operand() (*filterTree, error) {
	p.spaces()
	at := p.at
	if !p.keyword("not") {
		if strings.HasPrefix(p.text[p.at:], "(") {
			return p.parenthesis()
		}
		return p.comparison()
	}
	if p.spaces(); !strings.HasPrefix(p.text[p.at:], "(") {
		p.at = at
		return nil, p.refuse("what \"not\" denies must stand in parentheses, as in not (status eq final)")
	}
	f, err := p.parenthesis()
	if err != nil {
		return nil, err
	}
	return &filterTree{join: joinNot, parts: []*filterTree{f}, text: "not (" + f.text + ")", leaves: f.leaves, linked: f.linked}, nil
}

func (p *filterParser) parenthesis() (*filterTree, error) {
	if p.depth++; p.depth > maxFilterDepth {
		return nil, p.refuse("parentheses are nested deeper than %d", maxFilterDepth)
	}
	p.at++
	f, err := p.expression()
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(p.text[p.at:], ")") {
		return nil, p.refuse("a closing parenthesis is missing")
	}
	p.at++
	p.depth--
	return f, nil
}

// joined joins two filters, taking in what is joined alike. Parts are sorted, and equal ones
// kept once: their order has no meaning.
func joined(j junction, a, b *filterTree) *filterTree {
	out := &filterTree{join: j}
	for _, f := range []*filterTree{a, b} {
		if f.join == j {
			out.parts = append(out.parts, f.parts...)
		} else {
			out.parts = append(out.parts, f)
		}
	}
	slices.SortStableFunc(out.parts, func(x, y *filterTree) int { return strings.Compare(x.text, y.text) })
	out.parts = slices.CompactFunc(out.parts, func(x, y *filterTree) bool { return x.text == y.text })
	if len(out.parts) == 1 {
		return out.parts[0]
	}
	var texts []string
	for _, f := range out.parts {
		out.leaves += f.leaves
		out.linked = out.linked || f.linked
		t := f.text
		if f.join == joinAnd || f.join == joinOr {
			t = "(" + t + ")"
		}
		texts = append(texts, t)
	}
	word := " and "
	if j == joinOr {
		word = " or "
	}
	out.text = strings.Join(texts, word)
	// Other resources are asked for only where all that is at hand leaves it open.
	slices.SortStableFunc(out.parts, func(x, y *filterTree) int {
		switch {
		case x.linked == y.linked:
			return 0
		case y.linked:
			return -1
		}
		return 1
	})
	return out
}

// comparison reads path operator value.
func (p *filterParser) comparison() (*filterTree, error) {
	at := p.at
	path := p.name()
	switch {
	case path == "":
		return nil, p.refuse("a comparison must begin with the name of a search parameter, as in name co \"pet\"")
	case strings.HasPrefix(p.text[p.at:], "["):
		return nil, p.located(p.at, unsupported("a filter in brackets after a name is not supported; to tie values to one place, write a composite parameter beside the filter, such as Group?characteristic-value=code$value"))
	case strings.HasPrefix(p.text[p.at:], ":"):
		return nil, p.refuse("a name in a filter has no modifier; an operator says what is meant")
	case path == "_has", path == "_list":
		return nil, p.located(at, unsupported("%s cannot stand in a filter; write it as a parameter of its own", path))
	}
	p.spaces()
	opAt := p.at
	op := p.name()
	if !slices.Contains(filterOperators, op) {
		p.at = opAt
		return nil, p.refuse("an operator must follow %s: one of %s", path, strings.Join(filterOperators, ", "))
	}
	p.spaces()
	valueAt := p.at
	value, err := p.value()
	if err != nil {
		return nil, err
	}
	if p.leaves++; p.leaves > maxFilterLeaves {
		return nil, &refused{fhir.IssueTooLong, fmt.Sprintf("the filter has more than %d comparisons", maxFilterLeaves)}
	}
	x, value, err := p.compare(path, op, value, at, opAt, valueAt)
	if err != nil {
		return nil, err
	}
	x.path = path
	return &filterTree{leaf: x, leaves: 1, text: path + " " + op + " " + quoted(value), linked: x.condition.linked != nil}, nil
}

// value reads a JSON string or a token, which ends at white space, ) and ].
func (p *filterParser) value() (string, error) {
	rest := p.text[p.at:]
	if strings.HasPrefix(rest, `"`) {
		var s string
		end := closingQuote(rest)
		if end == 0 || json.Unmarshal([]byte(rest[:end]), &s) != nil {
			return "", p.refuse("a value in double quotes must be a JSON string, which ends with a double quote")
		}
		if s == "" {
			return "", p.refuse("the value is empty; use pr to ask for presence or absence")
		}
		p.at += end
		return s, nil
	}
	s := rest[:tokenEnd(rest)]
	if s == "" {
		return "", p.refuse("a value is missing")
	}
	p.at += len(s)
	// The + of a time zone arrives as a space where its author did not encode it.
	if z := p.text[p.at:]; strings.IndexByte(s, 'T') > 0 && len(z) >= 6 && z[0] == ' ' && z[3] == ':' &&
		tokenEnd(z[1:]) == 5 && strings.Trim(z[1:3]+z[4:6], "0123456789") == "" {
		p.at += 6
		s += "+" + z[1:6]
	}
	return s, nil
}

func tokenEnd(s string) int {
	if i := strings.IndexFunc(s, func(c rune) bool { return c == ')' || c == ']' || unicode.IsSpace(c) }); i >= 0 {
		return i
	}
	return len(s)
}

// closingQuote finds the end of a JSON string; 0 if it has none.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// quoted writes a value as a JSON string.
func quoted(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string that was decoded cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

// compare makes a comparison, and gives the value with short names of systems written out. The
// positions are those of the path, the operator and the value.
func (p *filterParser) compare(path, op, value string, at, opAt, valueAt int) (*comparison, string, error) {
	c := p.compiler
	var err error
	if c.definitions.repository && strings.Contains(path, ".") {
		x, err := p.chain(path, op, value)
		return x, value, p.located(at, err)
	}
	if c.param, err = c.lookup(path); err != nil {
		return nil, "", p.located(at, err)
	}
	k := c.param.kind
	if c.view = c.param.view; c.view != viewElement && op != "pr" {
		return nil, "", p.located(at, unsupported("%s is a search for words and takes only pr in a filter; write it as a parameter of its own", path))
	}
	if !slices.Contains(filterKinds[k], op) {
		takes := "none; it cannot stand in a filter"
		if filterKinds[k] != nil {
			takes = strings.Join(filterKinds[k], ", ")
		}
		return nil, "", p.located(opAt, unsupported("operator %s does not apply to %s, which is a %s parameter; it takes %s", op, path, k, takes))
	}
	value = longSystem(k, value)
	x := &comparison{}
	modifier, text := ordinary(k, op, value)
	c.modifier = modifier
	if modifier != "" {
		if err := c.checkModifier(); err != nil {
			return nil, "", p.located(opAt, err)
		}
	}
	if x.condition, err = c.condition(p.source, text); err != nil {
		return nil, "", p.located(valueAt, err)
	}
	x.complete(k, op)
	return x, value, nil
}

// chain makes a comparison on resources that are referred to: on each type that a reference may
// lead to and that has the parameter, a filter of the rest of the path.
func (p *filterParser) chain(path, op, value string) (*comparison, error) {
	c := p.compiler
	if c.depth++; c.depth > maxDepth {
		return nil, unsupported("more than %d links from one resource to another are not followed", maxDepth)
	}
	defer func() { c.depth-- }()
	head, rest, _ := strings.Cut(path, ".")
	reference, err := c.lookup(head)
	if err != nil {
		return nil, err
	}
	targets, err := c.targets(reference, "", false)
	if err != nil {
		return nil, err
	}
	x := &chain{param: reference}
	if len(targets) > 1 {
		x.rest = rest
	}
	for _, t := range targets {
		if len(targets) > 1 && !t.knows(rest) {
			continue
		}
		next, err := c.followFilter(t, p.source, rest+" "+op+" "+quoted(value))
		if err != nil {
			return nil, ofTarget(err, t)
		}
		x.ends = append(x.ends, chainEnd{t.name, next})
	}
	if len(x.ends) == 0 {
		return nil, unsupported("none of the types that %s may refer to has a search parameter %s: %s", head, shown(firstName(rest)), typeNames(targets))
	}
	c.values = max(c.values, c.counted)
	return &comparison{condition: &condition{param: linkedParam, source: p.source, wants: &wants{linked: x}}}, nil
}

// followFilter compiles a filter for a type that a link may lead to.
func (c *compiler) followFilter(t *typeDef, source, text string) (*condition, error) {
	if c.links++; c.links > maxLinks {
		return nil, unsupported("the links may lead to more than %d combinations of types; use parameters that name the type, such as patient", maxLinks)
	}
	next := compiler{definitions: c.definitions, typ: t, values: c.values, links: c.links, depth: c.depth, expander: c.expander}
	cond, err := next.filter(source, text)
	c.links, c.expander, c.counted = next.links, next.expander, max(c.counted, next.values)
	return cond, err
}

// ofTarget says for which type a refusal is, in place of its position in what was compiled for it.
func ofTarget(err error, t *typeDef) error {
	r, ok := err.(*refused)
	if !ok {
		return err
	}
	if _, msg, found := strings.Cut(r.msg, "of the filter: "); found {
		return &refused{r.typ, "for " + t.name + ": " + msg}
	}
	return err
}

// longSystem writes out the short name of a code system before the | of a value.
func longSystem(k kind, value string) string {
	before := ""
	if k == kindQuantity {
		i := strings.IndexByte(value, '|') + 1
		before, value = value[:i], value[i:]
	}
	if system, rest, found := strings.Cut(value, "|"); found && (k == kindToken || k == kindQuantity) && filterSystems[system] != "" {
		value = filterSystems[system] + "|" + rest
	}
	return before + value
}

// ordinary gives the modifier and the value of the ordinary condition that a comparison is made
// of. A comma divides no values here.
func ordinary(k kind, op, value string) (modifier, text string) {
	switch k {
	case kindString, kindURI:
		text = escape(value)
	default:
		text = escapeCommas(value)
	}
	switch op {
	case "pr": // the set is empty or not
		if value == "true" || value == "false" {
			return "missing", map[string]string{"true": "false", "false": "true"}[value]
		}
		return "missing", text
	case "co":
		if k == kindString {
			return "contains", text
		}
		return "", "eq" + text // so that a prefix within the value is refused
	case "gt", "lt", "ge", "le", "ap", "sa", "eb":
		if k != kindString {
			return "", op + text
		}
	case "eq", "ne":
		if k == kindNumber || k == kindQuantity || k == kindDate {
			return "", op + text
		}
	case "po": // an overlap, as ap is
		return "", "ap" + text
	case "ss": // the value subsumes a concept of the set
		return "below", text
	case "sb":
		return "above", text
	case "in":
		return "in", text
	case "ni":
		return "not-in", text
	}
	return "", text
}

// escapeCommas puts a backslash before each comma that has none.
func escapeCommas(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			b.WriteByte('\\')
			i++
		case s[i] == ',':
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// complete adds the test of single values to a comparison that its condition does not decide.
func (x *comparison) complete(k kind, op string) {
	c := x.condition
	one := func(*Resource, int32) int { return 1 }
	switch {
	case op == "pr":
	case k == kindString:
		x.testText(op)
	case k == kindToken && (op == "eq" || op == "ne"):
		// "Values are never case sensitive" (R4 3.1.3), not even codes.
		w, want := &c.tokens[0], op == "eq"
		x.cost = func(r *Resource, i int32) int { return 1 + len(r.tokens[i].code)/stride }
		x.test = func(r *Resource, i int32) bool {
			v := r.tokens[i]
			v.exact = false
			return w.match(&v) == want
		}
	case k == kindReference && op == "ne":
		w := &c.references[0]
		x.cost, x.test = one, func(r *Resource, i int32) bool { return !w.match(&r.references[i]) }
	case k == kindURI && op == "ne":
		w := &c.uris[0]
		x.cost, x.test = one, func(r *Resource, i int32) bool { return !w.match(&r.uris[i]) }
	case k == kindDate && op == "co":
		w := &c.spans[0]
		x.cost, x.test = one, func(r *Resource, i int32) bool { return r.spans[i].contains(w.span) }
	case k == kindNumber && op == "co":
		w := &c.amounts[0]
		x.cost = func(r *Resource, i int32) int { return 2 * amountCost(w, &r.amounts[i]) }
		x.test = func(r *Resource, i int32) bool { return r.amounts[i].includes(&w.exact) }
	}
	// A text that equals or begins with another is found by an ordinary search for it; and the
	// hash of a code leaves out its case.
	x.implied = x.test == nil || op == "eq" || op == "sw"
}

// testText compares whole texts: the operators of strings say nothing of words and of parts. The
// texts are those of an ordinary search, without case, accents and punctuation.
func (x *comparison) testText(op string) {
	if op == "co" {
		return
	}
	want := x.condition.texts[0].folded
	decide := map[string]func(s []byte) bool{
		"eq": func(s []byte) bool { return bytes.Equal(s, want) },
		"ne": func(s []byte) bool { return !bytes.Equal(s, want) },
		"sw": func(s []byte) bool { return bytes.HasPrefix(s, want) },
		"ew": func(s []byte) bool { return bytes.HasSuffix(s, want) },
		// In the order of code points, which is that of bytes of UTF-8.
		"gt": func(s []byte) bool { return bytes.Compare(s, want) > 0 },
		"lt": func(s []byte) bool { return bytes.Compare(s, want) < 0 },
		"ge": func(s []byte) bool { return bytes.Compare(s, want) >= 0 },
		"le": func(s []byte) bool { return bytes.Compare(s, want) <= 0 },
	}[op]
	x.cost = func(*Resource, int32) int { return 1 + len(want)/stride }
	x.test = func(r *Resource, i int32) bool {
		return r.texts[i].raw != nil && decide(r.texts[i].folded) // without raw it is a part of another
	}
}

// includes reports whether a number lies in what the precision of the resource's own covers.
func (a *amount) includes(w *decimal) bool {
	if !a.noLo && !a.noHi && a.lo.compare(a.hi) == 0 {
		half := decimal{coef: 5, exp: a.lo.exponent() - 1}
		return a.lo.plus(half.times(-1, 0)).compare(*w) <= 0 && w.compare(a.lo.plus(half)) < 0
	}
	return (a.noLo || a.lo.compare(*w) <= 0) && (a.noHi || w.compare(a.hi) <= 0)
}
