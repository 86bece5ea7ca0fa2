package search

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// Bounds of conditions on other resources.
const (
	maxDepth = 5   // links from one resource to another, one behind the other
	maxLinks = 500 // over all parameters of a criteria and all types that a link may lead to
	// maxRepeated bounds the values at the ends of links, which are compiled for each type again.
	maxRepeated = 10 * maxValues
)

// linked is a condition on other resources: a chain, _has or _list.
type linked interface {
	// hit decides for a resource. What cannot be decided is left in r.missed, and counts where
	// nothing else meets the condition.
	hit(r *Resource) bool
	// explain adds what the condition looked at.
	explain(r *Resource, c *Condition)
	// parts shows the conditions that other resources have to meet.
	parts(visit func(*condition))
}

// each shows a condition and all that it is made of: those on other resources, and those of a
// filter.
func (c *condition) each(visit func(*condition)) {
	visit(c)
	switch part := func(x *condition) { x.each(visit) }; {
	case c.linked != nil:
		c.linked.parts(part)
	case c.filter != nil:
		c.filter.each(part)
	}
}

// metElsewhere is met for a linked condition.
func (c *condition) metElsewhere(r *Resource, steps int) (met, ok bool) {
	r.spent, r.limit, r.missed = 0, steps, nil
	hit := c.linked.hit(r)
	ok = r.spent <= r.limit && (hit || r.missed == nil)
	return ok && hit, ok
}

// undecided is why the condition that was asked last could not be decided.
func (r *Resource) undecided() error {
	if r.spent > r.limit {
		return ErrTooCostly
	}
	return r.missed
}

// miss notes that something could not be found out. It reports whether it is worth to go on:
// after what may pass, everything is asked again anyway.
func (r *Resource) miss(err error) bool {
	r.missed = worse(r.missed, err)
	_, passing := r.missed.(*Unavailable)
	return !passing
}

// ask decides a condition on another resource with the steps that r has left. Through a
// reference to itself, or a ring of them, that may be a resource which is being asked already.
func (r *Resource) ask(c *condition, other *Resource) bool {
	left, spent, limit, missed, work := r.limit-r.spent, other.spent, other.limit, other.missed, other.work
	other.spent, other.missed = 0, nil
	met, ok := c.met(other, left)
	used, why := other.spent, other.undecidedIf(!ok)
	other.spent, other.limit, other.missed = spent, limit, missed
	if other != r {
		r.work += other.work - work
	}
	r.spent += used
	if why != nil && why != ErrTooCostly {
		r.miss(why)
	}
	return met
}

func (r *Resource) undecidedIf(undecided bool) error {
	if !undecided {
		return nil
	}
	return r.undecided()
}

// visit counts what it costs to look at another resource, or for one that is not there (nil),
// and reports whether it may be.
func (r *Resource) visit(other *Resource) bool {
	cost := visitCost
	if other != nil {
		cost += len(other.tree.Source()) / stride
	}
	return r.spend(cost)
}

// chain asks for a resource that is referred to and meets a condition of its own
// (R4 3.1.1.4.13).
type chain struct {
	param *param
	ends  []chainEnd // by the type that is referred to, sorted
	rest  string     // of the chain's text, behind param; empty where the author named the one type
}

// chainEnd is what a resource of one type has to meet.
type chainEnd struct {
	typ  string
	next *condition
}

// end is what a resource of a type has to meet; nil if such a resource does not count.
func (x *chain) end(typ []byte) *condition {
	for i := range x.ends {
		if x.ends[i].typ == string(typ) {
			return x.ends[i].next
		}
	}
	return nil
}

func (x *chain) parts(visit func(*condition)) {
	for i := range x.ends {
		visit(x.ends[i].next)
	}
}

func (x *chain) hit(r *Resource) bool {
	s := r.values(x.param)
	if s.fault {
		r.miss(ErrNotEvaluable)
	}
	for i := s.from; i < s.to; i++ {
		v := r.references[i] // copied: asking another resource may read more of this one
		to := r.destination(&v)
		next := x.end(to.typ)
		if next == nil {
			if !r.spend(1) {
				return false
			}
			continue
		}
		other, kept, err := r.arrive(to)
		if err != nil && !r.miss(err) || !r.visit(other) {
			r.others.discard(other, kept)
			return false
		}
		met := other != nil && r.ask(next, other)
		r.others.discard(other, kept)
		if met || r.spent > r.limit {
			return met
		}
	}
	return false
}

// destination is what a reference leads to: a resource on its own, one inside of another, or,
// without a type, nothing that is known.
type destination struct {
	typ       []byte
	id        []byte
	outer     *Resource // that it stands in
	node      json.Node // where it stands in outer; 0: it is outer
	contained bool
}

// destination tells where a reference leads. Nothing is known of resources on other servers, of
// logical identifiers and of urns. The version that a reference may name does not count: what
// is asked is how the resource is.
func (r *Resource) destination(v *reference) destination {
	if v.canonical {
		return destination{}
	}
	if to, found := r.inBundle(v.raw); found && !v.inline {
		return to
	}
	switch {
	case v.inline:
		return destination{typ: r.str(v.node, nameTypeName), outer: r, node: v.node}
	case len(v.whole) > 0 && v.whole[0] == '#':
		return r.fragment(v.whole[1:])
	case v.id == nil || v.base != nil:
		return destination{}
	}
	return destination{typ: v.typ, id: v.id}
}

// fragment is where a reference inside of a body leads: to a contained resource or, from one,
// to its container (R4 2.3.0.2).
func (r *Resource) fragment(id []byte) destination {
	outer := r
	if r.container != nil {
		outer = r.container
	}
	if len(id) > 0 {
		n := outer.containedNode(id)
		return destination{typ: outer.str(n, nameTypeName), outer: outer, node: n, contained: true}
	}
	if r.container == nil {
		return destination{}
	}
	return destination{typ: []byte(outer.name), outer: outer}
}

// arrive gives the resource at a destination, nil where there is none. One that is not kept is
// the caller's to discard.
func (r *Resource) arrive(to destination) (other *Resource, kept bool, err error) {
	switch {
	case to.outer == nil:
		if r.others != nil { // a look-up like this one makes no copy of the key
			if other, known := r.others.byKey[fhir.Key{Type: string(to.typ), ID: fhir.ID(to.id)}]; known {
				return other, true, nil
			}
		}
		return r.others.read(fhir.Key{Type: string(to.typ), ID: fhir.ID(to.id)})
	case to.node == 0:
		return to.outer, true, nil
	}
	if r.others == nil { // what stands inside of a body is asked without a Repository, too
		r.others = &others{root: r}
	}
	other, err = r.others.within(to.outer, to.node, to.contained)
	return other, false, err
}

// refersTo reports whether one of a resource's references is one to a key, and whether that
// could be found out.
func (p *param) refersTo(r *Resource, key fhir.Key) (refers, known bool) {
	s := r.values(p)
	for i := s.from; i < s.to; i++ {
		v := &r.references[i]
		if !v.canonical && v.base == nil && string(v.id) == string(key.ID) && string(v.typ) == key.Type {
			return true, true
		}
	}
	return false, !s.fault
}

// explain lists the resources that were reached and what they have.
func (x *chain) explain(r *Resource, c *Condition) {
	s := r.values(x.param)
	reached := 0
	for i := s.from; i < s.to && len(c.Found) < foundLimit; i++ {
		v := r.references[i]
		if x.explainOne(r, &v, c) {
			reached++
		}
	}
	switch {
	case !s.present:
		c.Note = "no value in the resource"
	case reached == 0:
		c.Note = "no reference in the resource leads to one that is known here and of a type that has the parameter"
	default:
		c.Note = "no resource that is referred to meets it"
	}
}

// explainOne says what one reference leads to, and reports whether that is a resource.
func (x *chain) explainOne(r *Resource, v *reference, c *Condition) bool {
	name := string(v.raw)
	if v.inline {
		name = "the resource inside"
	}
	to := r.destination(v)
	next := x.end(to.typ)
	if next == nil {
		c.find(name + ": not asked")
		return false
	}
	other, kept, err := r.arrive(to)
	defer r.others.discard(other, kept)
	switch {
	case err != nil:
		c.find(name + ": " + err.Error())
	case other == nil:
		c.find(name + ": not known here")
	default:
		c.find(name + ": " + next.seen(other, r.limit))
	}
	return other != nil
}

// seen tells what a condition at the end of a link looks at in the other resource.
func (c *condition) seen(other *Resource, steps int) string {
	if found := c.explain(other, steps).Found; len(found) > 0 {
		return strings.Join(found, ", ")
	}
	return "no value"
}

// find adds what was found, within bounds.
func (c *Condition) find(s string) {
	if len(c.Found) < foundLimit {
		c.Found = append(c.Found, s)
	}
}

// explainElsewhere is explain for a linked condition.
func (c *condition) explainElsewhere(r *Resource, steps int) Condition {
	out := Condition{Text: c.source}
	met, ok := c.metElsewhere(r, steps)
	why := r.undecidedIf(!ok)
	c.linked.explain(r, &out)
	if out.Met = met; met {
		out.Note = ""
	} else if why != nil {
		out.Note = why.Error()
	}
	return out
}

// linkedName reports whether a parameter's name asks for other resources.
func linkedName(name string) bool {
	code, _, _ := strings.Cut(name, ":")
	return code == "_has" || code == "_list" || strings.Contains(name, ".")
}

// linked compiles a condition on other resources.
func (c *compiler) linked(part, name, value string, hasValue bool) (*condition, error) {
	code, modifier, modified := strings.Cut(name, ":")
	if code == "_list" {
		return c.list(part, modifier, value, modified)
	}
	if c.depth++; c.depth > maxDepth {
		return nil, unsupported("more than %d links from one resource to another are not followed", maxDepth)
	}
	defer func() { c.depth-- }()
	if code == "_has" {
		return c.has(part, name, value, hasValue)
	}
	return c.chain(part, name, value, hasValue)
}

// chain compiles reference.parameter and reference:Type.parameter.
func (c *compiler) chain(part, name, value string, hasValue bool) (*condition, error) {
	head, rest, _ := strings.Cut(name, ".")
	code, typ, typed := strings.Cut(head, ":")
	p, err := c.lookup(code)
	if err != nil {
		return nil, err
	}
	if first := firstName(rest); !p.allowsChain(first) {
		return nil, unsupported("the definition of %s does not allow a chain to %s", code, shown(first))
	}
	targets, err := c.targets(p, typ, typed)
	if err != nil {
		return nil, err
	}
	x := &chain{param: p}
	if len(targets) > 1 {
		x.rest = rest
	}
	for _, t := range targets {
		if len(targets) > 1 && !t.knows(rest) {
			continue
		}
		next, err := c.follow(t, part, rest, value, hasValue)
		if err != nil {
			if len(targets) > 1 {
				return nil, c.forType(err, t, code, rest)
			}
			return nil, err
		}
		x.ends = append(x.ends, chainEnd{t.name, next})
	}
	if len(x.ends) == 0 {
		return nil, unsupported("none of the types that %s may refer to has a search parameter %s: %s", code, shown(firstName(rest)), typeNames(targets))
	}
	c.values = max(c.values, c.counted)
	return &condition{param: linkedParam, source: part, text: x.text(code, rest, value), wants: &wants{linked: x}}, nil
}

// text is the canonical form of a chain. Where it means the same to all types that it leads to,
// that of the last link says it, else it is as it was written.
func (x *chain) text(code, rest, value string) string {
	end := x.ends[0].next.text
	switch {
	case len(x.ends) == 1:
		return code + ":" + x.ends[0].typ + "." + end
	case slices.ContainsFunc(x.ends, func(e chainEnd) bool { return e.next.text != end }):
		return code + "." + encode(rest) + "=" + encode(value)
	}
	return code + "." + end
}

// linkedParam stands where another condition has its parameter: a linked one has several.
var linkedParam = &param{kind: kindSpecial, index: -1}

// targets are the types that a link may lead to.
func (c *compiler) targets(p *param, typ string, typed bool) ([]*typeDef, error) {
	switch {
	case p.kind != kindReference:
		return nil, unsupported("%s is no reference, so nothing can be chained to it", p.code)
	case p.reads(leafCanonical):
		return nil, unsupported("%s holds canonical URLs, which chains do not follow; ask for the URL itself, as in %s=http://…", p.code, p.code)
	case typed && !c.definitions.HasType(typ):
		return nil, unsupported("%s is not a resource type; a link of a chain is written reference:Type.parameter", shown(typ))
	case typed && len(p.leadsTo()) > 0 && !slices.Contains(p.leadsTo(), typ):
		return nil, refusal("it cannot refer to %s, only to %s", typ, strings.Join(p.leadsTo(), ", "))
	case typed:
		return []*typeDef{c.definitions.types[typ]}, nil
	}
	return c.definitions.typesOf(p.leadsTo()), nil
}

// typesOf are the types of these names; of no names: all.
func (d *Definitions) typesOf(names []string) []*typeDef {
	if len(names) == 0 {
		names = d.names
	}
	var out []*typeDef
	for _, name := range names {
		if t := d.types[name]; t != nil {
			out = append(out, t)
		}
	}
	return out
}

// leadsTo are the types that a parameter's references may be of; none: any. A parameter such as
// patient, which takes the Patients out of another one's references, leads to those alone.
func (p *param) leadsTo() []string {
	var only []string
	for i := range p.paths {
		x := p.paths[i].steps
		if len(x) == 0 || x[len(x)-1].filter != filterIs {
			return p.targets
		}
		only = append(only, x[len(x)-1].value)
	}
	slices.Sort(only)
	return slices.Compact(only)
}

// knows reports whether a type has the parameter that the rest of a chain begins with; a link
// of a chain must be a reference there.
func (t *typeDef) knows(rest string) bool {
	name := firstName(rest)
	if name == "_has" || name == "_list" {
		return true
	}
	p := t.params[name]
	if p == nil {
		p = ownParameter(t, name)
	}
	return p != nil && (p.kind == kindReference || !strings.Contains(rest, "."))
}

// firstName is the parameter that a name begins with.
func firstName(name string) string {
	if i := strings.IndexAny(name, ".:"); i >= 0 {
		return name[:i]
	}
	return name
}

func typeNames(types []*typeDef) string {
	var out []string
	for _, t := range types {
		if out = append(out, t.name); len(out) == 10 && len(types) > 10 {
			out = append(out, fmt.Sprintf("and %d more", len(types)-10))
			break
		}
	}
	return strings.Join(out, ", ")
}

// follow compiles the rest of a chain for one type that it may lead to.
func (c *compiler) follow(t *typeDef, part, rest, value string, hasValue bool) (*condition, error) {
	if c.links++; c.links > maxLinks {
		return nil, unsupported("the links may lead to more than %d combinations of types; name the types, as in subject:Patient.name", maxLinks)
	}
	next := *c // whatever else a compiler knows holds for the whole criteria
	next.typ, next.counted = t, 0
	cond, err := next.parameter(part, rest, value, hasValue)
	if c.repeated = next.repeated; next.links == c.links { // no further link: here are the values
		c.repeated += next.values - c.values
	}
	c.links, c.expander = next.links, next.expander
	switch {
	case err != nil:
		return nil, err
	case c.repeated > maxRepeated:
		return nil, unsupported("it has too many values for all the types that the links may lead to; name the types, as in subject:Patient.name")
	case cond == nil:
		return nil, unsupported("%s selects nothing and cannot end a chain", shown(firstName(rest)))
	}
	// The same values for another type are no more values.
	c.counted = max(c.counted, next.values)
	return cond, nil
}

// forType says for which of several types a refusal is.
func (c *compiler) forType(err error, t *typeDef, code, rest string) error {
	r, ok := err.(*refused)
	if !ok {
		return err
	}
	return &refused{r.typ, fmt.Sprintf("for %s: %s; name one type, as in %s:Type.%s", t.name, r.msg, code, rest)}
}

// placeReferences notes where references stand that were read from an element. A resource that
// stands where a reference could is one that can be asked, with or without an id.
func (r *Resource) placeReferences(from int, n json.Node, l leaf) {
	if l == leafResource && from == len(r.references) && r.str(n, nameTypeName) != nil {
		r.references = append(r.references, reference{})
	}
	for i := from; i < len(r.references); i++ {
		r.references[i].node, r.references[i].inline = n, l == leafResource
	}
}
