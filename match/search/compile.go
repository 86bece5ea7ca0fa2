package search

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Bounds of a criteria. They keep the price of one evaluation small whoever writes it.
const (
	maxLength     = 8 << 10 // bytes
	maxConditions = 64
	maxValues     = 1000 // over all conditions
)

// resultParameters shape the answer to a search and change no match (R4 3.1.1.5). They are
// accepted without effect, with these modifiers.
var resultParameters = map[string][]string{
	"_format": nil, "_pretty": nil, "_summary": nil, "_elements": nil, "_count": nil, "_total": nil,
	"_offset": nil, "_fields": nil, "_cursor": nil, // HAPI's and Medplum's own
	"_sort":       {"asc", "desc"},
	"_include":    {"iterate", "recurse"},
	"_revinclude": {"iterate", "recurse"},
}

// modifiers lists what may follow each kind of parameter, besides :missing and, for a
// reference, the name of a type.
var modifiers = map[kind][]string{
	kindToken:     {"not", "text", "code-text", "text-advanced", "of-type", "in", "not-in", "above", "below"},
	kindString:    {"exact", "contains", "text"},
	kindReference: {"identifier", "text", "text-advanced"},
	kindURI:       {"above", "below", "contains"},
}

// Compile reads a criteria: Type, Type?, Type?name=value&name:modifier=value,value, [A,B] or
// [*]. Path segments before the type are let go unless they name a compartment, and so is one of
// the server's own base URLs.
//
// An error is a *fhir.Error with a single issue whose Expression is empty; its diagnostics name
// the parameter, its position (in bytes from 1) and the way out. Nothing is ignored silently:
// what this package does not know is refused, because a condition left out would notify of
// resources that nobody asked for.
func (d *Definitions) Compile(criteria string) (*Criteria, error) {
	switch {
	case len(criteria) > maxLength:
		return nil, fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf(
			"the criteria is %d bytes long, the limit is %d: divide it into several", len(criteria), maxLength))
	case !utf8.ValidString(criteria):
		return nil, fhir.Refuse(fhir.IssueValue, "", "the criteria is not valid UTF-8")
	}
	c := &Criteria{definitions: d, source: criteria}
	s := strings.TrimSpace(criteria)
	var err error
	if strings.HasPrefix(s, "[") {
		err = c.compileList(s)
	} else {
		err = c.compileSearch(s, strings.Index(criteria, s))
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// compileList reads [A,B] and [*].
func (c *Criteria) compileList(s string) error {
	if !strings.HasSuffix(s, "]") {
		return fhir.Refuse(fhir.IssueValue, "", "a list of types begins with [ and must end with ]; it takes no parameters")
	}
	var list []string
	for name := range strings.SplitSeq(s[1:len(s)-1], ",") {
		name = strings.TrimSpace(name)
		if name == "*" {
			c.any = true
			continue
		}
		t, err := c.definitions.typeNamed(name)
		if err != nil {
			return err
		}
		if !slices.Contains(list, name) {
			list = append(list, name)
			c.types = append(c.types, t)
		}
	}
	if c.any { // a * anywhere takes in every type
		c.types = nil
		return nil
	}
	slices.SortFunc(c.types, func(a, b *typeDef) int { return strings.Compare(a.name, b.name) })
	return nil
}

func (d *Definitions) typeNamed(name string) (*typeDef, error) {
	if t := d.types[name]; t != nil {
		return t, nil
	}
	if name == "" {
		return nil, fhir.Refuse(fhir.IssueValue, "", "the criteria names no resource type: it must be Type, Type?parameters, [Type,Type] or [*]")
	}
	return nil, fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("%s is not a resource type of FHIR %s%s", shown(name), d.version, nearest(name, d.names)))
}

// compileSearch reads Type?parameters; offset is its place in the criteria.
func (c *Criteria) compileSearch(s string, offset int) error {
	head, query, _ := strings.Cut(s, "?")
	name, err := c.definitions.lastSegment(head)
	if err != nil {
		return err
	}
	t, err := c.definitions.typeNamed(name)
	if err != nil {
		return err
	}
	c.types = t.alone()
	if n := strings.Count(query, "&") + 1; n > len(c.room) {
		c.conditions = make([]*condition, 0, min(n, maxConditions))
	} else {
		c.conditions = c.room[:0]
	}
	comp := compiler{definitions: c.definitions, typ: t}
	at := offset + len(head) + 2 // position of the query's first byte, from 1
	for part := range strings.SplitSeq(query, "&") {
		if part != "" {
			if err := c.add(&comp, part, at); err != nil {
				return err
			}
		}
		at += len(part) + 1
	}
	return nil
}

// lastSegment finds the type at the end of a path. An absolute URL elsewhere is not a search:
// it would name a topic (Subscriptions R5 Backport). Nor is a search within a compartment
// (Patient/123/Observation, R4 3.1.1.2) one of all resources of a type.
func (d *Definitions) lastSegment(head string) (string, error) {
	for _, b := range d.bases {
		head = strings.TrimPrefix(head, b)
	}
	if strings.Contains(head, ":") {
		return "", fhir.Refuse(fhir.IssueNotSupported, "", "the criteria is a URL: Subscriptions to a topic are not supported by this version; write Type?parameters")
	}
	path := strings.Split(strings.TrimSuffix(head, "/"), "/")
	name := path[len(path)-1]
	for _, segment := range path[:len(path)-1] {
		if d.HasType(segment) && d.HasType(name) { // a compartment: let go, it would leave every resource of the type
			return "", fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("the path asks for a compartment of %s, which is not supported; "+
				"write what its resources refer to as a parameter, as in Observation?patient=123", segment))
		}
	}
	return name, nil
}

// add compiles one parameter of the query.
func (c *Criteria) add(comp *compiler, part string, at int) error {
	cond, err := comp.compile(part)
	if err != nil {
		return place(err, part, at)
	}
	if cond == nil {
		return nil
	}
	if slices.ContainsFunc(c.conditions, func(o *condition) bool { return o.text == cond.text }) {
		return nil
	}
	if len(c.conditions) == maxConditions {
		return fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf("the criteria has more than %d parameters", maxConditions))
	}
	if cond.text == cond.source {
		cond.text = cond.source // one string less to keep: it is a part of the criteria's
	}
	c.keep(cond, comp.typ)
	c.repository = c.repository || cond.elsewhere()
	return nil
}

// refused is a refusal before it knows where it stands.
type refused struct {
	typ fhir.IssueType
	msg string
}

func (e *refused) Error() string { return e.msg }

func refusal(format string, args ...any) error {
	return &refused{fhir.IssueValue, fmt.Sprintf(format, args...)}
}

func unsupported(format string, args ...any) error {
	return &refused{fhir.IssueNotSupported, fmt.Sprintf(format, args...)}
}

func tooManyValues() error {
	return &refused{fhir.IssueTooLong, fmt.Sprintf("the criteria has more than %d values", maxValues)}
}

// place says where in the criteria a refusal applies. The parameter's value is not repeated.
func place(err error, part string, at int) error {
	var r *refused
	if !errors.As(err, &r) {
		return err
	}
	name, _, _ := strings.Cut(part, "=")
	return fhir.Refuse(r.typ, "", fmt.Sprintf("parameter %s at position %d: %s", shown(name), at, r.msg))
}

// shown bounds what a message repeats of its input.
func shown(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

// compiler compiles the parameters of one criteria, one after the other.
type compiler struct {
	definitions *Definitions
	typ         *typeDef
	values      int // so far, over all parameters
	links       int // so far, over all parameters and types; see maxLinks
	depth       int // links that lead to typ
	repeated    int // values at the ends of links, for each type again; see maxRepeated
	counted     int // values after the tail of a chain; it may be compiled for several types
	expander    *expander

	// Of the parameter at hand:
	param    *param
	modifier string
	view     view

	once []*param // used already, of those that may be used once
}

// compile reads name=value; nil for a parameter that changes no match. The order of reading
// is: & and =, percent-encoding, commas, |, and the escapes last (R4 3.1.1.4.19).
func (c *compiler) compile(part string) (*condition, error) {
	rawName, rawValue, hasValue := strings.Cut(part, "=")
	name, err := decode(rawName)
	if err != nil {
		return nil, err
	}
	value, err := decode(rawValue)
	if err != nil {
		return nil, err
	}
	return c.parameter(part, name, value, hasValue)
}

// parameter compiles a parameter of c.typ whose name and value are decoded; nil for one that
// changes no match.
func (c *compiler) parameter(part, name, value string, hasValue bool) (*condition, error) {
	if c.definitions.repository && linkedName(name) {
		return c.linked(part, name, value, hasValue)
	}
	var err error
	code, modifier, modified := strings.Cut(name, ":")
	if allowed, ok := resultParameters[code]; ok {
		if modified && !slices.Contains(allowed, modifier) {
			return nil, unsupported("%s takes no modifier %s", code, shown(modifier))
		}
		return nil, nil
	}
	if code == "_filter" {
		if modified {
			return nil, unsupported("_filter takes no modifier")
		}
		return c.filter(part, value)
	}
	if c.param, err = c.lookup(code); err != nil {
		return nil, err
	}
	c.view = c.param.view
	if c.modifier = modifier; modified {
		if err := c.checkModifier(); err != nil {
			return nil, err
		}
	}
	if !hasValue || value == "" {
		return nil, refusal("the value is empty; leave the parameter out, or use :missing to ask for its absence")
	}
	return c.condition(part, value)
}

// elsewhere explains parameters that FHIR knows and that are not evaluated here.
var elsewhere = map[string]string{
	"_has":    "reverse chaining needs other resources, and there are none here",
	"_filter": "a filter is no name within a filter",
	"_list":   "searching by List needs other resources, and there are none here",
	"_in":     "searching by membership is not supported; for a List there is _list",
	"_query":  "named queries are not supported",
	"_type":   "_type is not supported; write [A,B] for several types",
}

// lookup finds a parameter of the type.
func (c *compiler) lookup(code string) (*param, error) {
	if msg, ok := elsewhere[code]; ok {
		return nil, unsupported("%s", msg)
	}
	if base, _, chained := strings.Cut(code, "."); chained {
		return nil, unsupported("chained parameters need other resources, and there are none here; name the resource itself, as in %s=Type/id", base)
	}
	p := c.typ.params[code]
	if p == nil || !p.evaluable() {
		if own := ownParameter(c.typ, code); own != nil {
			return own, nil
		}
	}
	switch {
	case p == nil:
		return nil, unsupported("%s has no such search parameter%s", c.typ.name, nearest(code, c.codes()))
	case !p.evaluable():
		return nil, unsupported("the specification gives no expression for this parameter, so it cannot be evaluated")
	case p.kind == kindSpecial && p.view == viewElement:
		return nil, unsupported("this special parameter is not supported")
	}
	return p, nil
}

func (c *compiler) codes() []string {
	var out []string
	for code, p := range c.typ.params {
		if p.evaluable() {
			out = append(out, code)
		}
	}
	slices.Sort(out)
	return out
}

func (c *compiler) checkModifier() error {
	p, m := c.param, c.modifier
	switch {
	case p.view != viewElement && m != "missing":
		return unsupported("it takes no modifier but :missing")
	case m == "missing", slices.Contains(modifiers[p.kind], m):
		return c.readAs(m)
	case p.kind == kindReference && c.definitions.HasType(m):
		if len(p.targets) > 0 && !slices.Contains(p.targets, m) {
			return refusal("it cannot refer to %s, only to %s", m, strings.Join(p.targets, ", "))
		}
		return nil
	case p.kind == kindReference && (m == "above" || m == "below"):
		return c.refuseHierarchy(m)
	case p.kind == kindReference && strings.Contains(m, "."):
		return unsupported("chained parameters need other resources, and there are none here")
	}
	known := ":missing"
	for _, k := range modifiers[p.kind] {
		known += ", :" + k
	}
	if p.kind == kindReference {
		known += ", the name of a type"
	}
	return unsupported("modifier %s is not supported for a %s parameter; supported are %s", shown(m), p.kind, known)
}

// condition reads the values.
func (c *compiler) condition(source, value string) (*condition, error) {
	if err := c.restrict(value); err != nil {
		return nil, err
	}
	out := &condition{param: c.param, modifier: c.modifier, view: c.view, source: source, wants: &wants{},
		negate: c.modifier == "not" || c.modifier == "not-in"}
	if c.modifier == "missing" {
		if value != "true" && value != "false" {
			return nil, refusal("the value of :missing must be true or false")
		}
		// present differs from what is wanted missing
		out.missing, out.wanted = true, value == "true"
		out.text = c.param.code + ":missing=" + value
		return out, nil
	}
	var texts []string
	for _, v := range splitEscaped(value, ',') {
		if c.values++; c.values > maxValues {
			return nil, tooManyValues()
		}
		if v == "" {
			return nil, refusal(`one of the values is empty; a comma within a value is written \,`)
		}
		text, err := c.value(out, v)
		if err != nil {
			return nil, err
		}
		texts = append(texts, encode(text))
	}
	slices.Sort(texts)
	out.text = c.param.code + c.suffix() + "=" + strings.Join(slices.Compact(texts), ",")
	out.prepare()
	return out, nil
}

// suffix is the modifier in the canonical form: a type is part of the values there.
func (c *compiler) suffix() string {
	if c.modifier == "" || c.definitions.HasType(c.modifier) {
		return ""
	}
	return ":" + c.modifier
}

// value reads one value into the condition and gives its canonical text.
func (c *compiler) value(out *condition, raw string) (string, error) {
	switch {
	case c.view != viewElement, c.codeSets():
		return c.extraValue(out, raw)
	case c.param.kind == kindToken, c.modifier == "identifier":
		w, err := c.token(raw)
		out.tokens = append(out.tokens, w)
		return w.text(), err
	case c.param.kind == kindComposite:
		return c.tuple(out, raw)
	case c.param.kind == kindString:
		w, err := c.text(raw)
		out.texts = append(out.texts, w)
		if c.modifier != "exact" {
			return string(w.folded), err
		}
		return escape(w.raw), err
	case c.param.kind == kindReference:
		typ := ""
		if c.definitions.HasType(c.modifier) {
			typ = c.modifier
		}
		w, err := c.reference(raw, typ)
		out.references = append(out.references, w)
		return escape(w.text()), err
	case c.param.kind == kindDate:
		w, err := c.date(raw)
		out.spans = append(out.spans, w)
		return w.text(), err
	case c.param.kind == kindURI:
		w, err := c.uri(raw)
		out.uris = append(out.uris, w)
		return escape(string(w.raw)), err
	}
	w, err := c.amount(raw)
	out.amounts = append(out.amounts, w)
	return w.text(), err
}
