package search

import (
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// A composite parameter (R4 3.1.1.4.15) ties values to one node: code and value of the same
// Observation.component. Its paths lead to the nodes; its parts are parameters whose paths begin
// there. A node that has a value for every part gives a tuple, and a wanted tuple is met by a
// tuple whose every part meets its own.

// part is what one part of a composite has at one node: a piece of the arena of its kind.
type part struct{ from, to int32 }

// Bounds of a composite whose parts are expressions, over all of its nodes: each evaluation has
// steps of its own, and together they must stay as bounded as everything else.
const (
	maxNodes     = 1000
	maxNodeSteps = 1 << 22
)

// readTuple reads the parts of a composite at one of its nodes.
func (r *Resource) readTuple(n json.Node) {
	p, s, at := r.param, r.reading, len(r.parts)
	defer func() { r.param, r.reading, r.view, r.done = p, s, p.view, p.first }()
	if p.mayFail() {
		if r.nodes++; r.nodes > maxNodes || r.nodeSteps > maxNodeSteps {
			s.fault = true
			return
		}
	}
	for _, x := range p.parts {
		read := r.readPart(x, n)
		s.fault = s.fault || r.tuple.fault
		r.parts = append(r.parts, read)
		if read.from == read.to {
			r.parts = r.parts[:at] // not a value of the composite
			return
		}
	}
	s.present = true
}

// readPart reads one part. Of a part that begins at the resource it does so once for all nodes:
// there may be as many values as nodes.
func (r *Resource) readPart(x *param, n json.Node) part {
	if x.fromRoot() && r.rootRead {
		return r.rootPart
	}
	r.tuple = slot{}
	r.fill(x, n, &r.tuple)
	read := part{r.tuple.from, r.tuple.to}
	if x.fromRoot() {
		r.rootPart, r.rootRead = read, true
	}
	return read
}

// fromRoot reports whether a part reads the same at every node. A composite has one such part
// at most.
func (p *param) fromRoot() bool { return len(p.paths) > 0 && p.paths[0].root }

// wantTuple is one value of a composite condition: one condition for each part, in their order.
type wantTuple []condition

// hitTuple decides a composite condition. Every wanted tuple is tried on a tuple even after one
// was met: what a tuple costs must not depend on their order.
func (c *condition) hitTuple(r *Resource, s *slot) bool {
	n := int32(len(c.param.parts))
	for i := s.from; i < s.to; i += n {
		met := false
		for _, w := range c.tuples {
			met = w.met(r, i) || met
		}
		if met {
			return true
		}
	}
	return false
}

// met compares with the tuple whose parts begin at i.
func (w wantTuple) met(r *Resource, i int32) bool {
	for k := range w {
		p := r.parts[int(i)+k]
		r.tuple = slot{from: p.from, to: p.to}
		if !w[k].hit(r, &r.tuple) {
			return false
		}
	}
	return true
}

// tuple reads one value of a composite condition: the values of its parts, divided by $.
func (c *compiler) tuple(out *condition, raw string) (string, error) {
	parts := c.param.parts
	values := splitEscaped(raw, '$')
	if len(values) != len(parts) {
		return "", refusal(`the value must be %s; a $ within one is written \$`, c.param.form())
	}
	var w wantTuple
	var texts []string
	for i, v := range values {
		if v == "" {
			return "", refusal("the value is empty for %s; it must be %s", parts[i].code, c.param.form())
		}
		sub := compiler{definitions: c.definitions, typ: c.typ, param: parts[i], view: parts[i].view}
		cond := condition{param: parts[i], view: parts[i].view, wants: &wants{}}
		text, err := sub.value(&cond, v)
		if err != nil {
			return "", inPart(parts[i].code, err)
		}
		cond.prepare()
		w = append(w, cond)
		if parts[i].kind == kindString { // whose text is not escaped: alone, it has no separators
			text = strings.ReplaceAll(text, "$", `\$`)
		}
		texts = append(texts, text)
	}
	out.tuples = append(out.tuples, w)
	return strings.Join(texts, "$"), nil
}

// form says how a value of a composite is written: code$value-quantity.
func (p *param) form() string {
	var codes []string
	for _, x := range p.parts {
		codes = append(codes, x.code)
	}
	return strings.Join(codes, "$")
}

// inPart says in which part of a value a refusal applies.
func inPart(code string, err error) error {
	if r, ok := err.(*refused); ok {
		return &refused{r.typ, "its part " + code + ": " + r.msg}
	}
	return err
}

// foundTuples writes the tuples of a resource as a criteria would: code$value.
func (c *condition) foundTuples(r *Resource, s *slot) []string {
	var out []string
	n := len(c.param.parts)
	for i := int(s.from); i < int(s.to) && len(out) < foundLimit; i += n {
		var texts []string
		for k, x := range c.param.parts {
			p := r.parts[i+k]
			found := (&condition{param: x, view: x.view, wants: nothingElse}).found(r, &slot{from: p.from, to: p.to})
			texts = append(texts, strings.Join(found, ","))
		}
		out = append(out, strings.Join(texts, "$"))
	}
	return slices.Compact(out)
}

// anchor gives the part of a composite condition that an index can post it under: the first
// whose every wanted value is a token with a code. Each tuple that meets the condition has one
// of these codes in that part.
func (c *condition) anchor() (place int, ok bool) {
	for place := range c.param.parts {
		if c.param.parts[place].kind == kindToken && !slices.ContainsFunc(c.tuples, func(w wantTuple) bool {
			return len(w[place].tokens) == 0 ||
				slices.ContainsFunc(w[place].tokens, func(t wantToken) bool { return t.scope == systemOnly })
		}) {
			return place, true
		}
	}
	return 0, false
}

// hashPart hashes the codes that the resource's tuples of a composite have in one part.
func (r *Resource) hashPart(p *param, place int) {
	s, n := r.values(p), len(p.parts)
	for i := int(s.from); i < int(s.to); i += n {
		x := r.parts[i+place]
		for k := x.from; k < x.to; k++ {
			if code := r.tokens[k].code; len(code) > 0 {
				r.hashes = append(r.hashes, r.definitions.hash(r.folding(code)))
			}
		}
	}
}

// partHashes are of the codes that the condition's tuples want in one part.
func (c *condition) partHashes(d *Definitions, place int) []uint64 {
	var out []uint64
	for _, w := range c.tuples {
		out = append(out, d.tokenHashes(w[place].tokens)...)
	}
	return out
}
