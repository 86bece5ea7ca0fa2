package search

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// reverse asks for a resource that refers to the one at hand and meets a condition of its own
// (R4 3.1.1.4.14).
type reverse struct {
	typ   *typeDef
	param *param
	next  *condition
}

func (x *reverse) parts(visit func(*condition)) { visit(x.next) }

func (x *reverse) hit(r *Resource) bool {
	hit := false
	x.each(r, func(other *Resource) bool {
		hit = r.visit(other) && r.ask(x.next, other)
		return !hit && r.spent <= r.limit
	})
	return hit
}

// each shows the resources that refer to r until visit says to stop, in order of their ids.
// Of a contained resource nothing outside of its container knows.
func (x *reverse) each(r *Resource, visit func(*Resource) bool) {
	target := fhir.Key{Type: r.name, ID: fhir.ID(r.ID())}
	if r.container != nil || target.ID == "" {
		return
	}
	o, q := r.others, question{x.typ.name, x.param.code, target}
	if o == nil || o.repository == nil {
		r.miss(errNoRepository)
		return
	}
	for from := 0; ; {
		ids, err := o.listed(q, from)
		if err != nil {
			r.miss(err)
		}
		if len(ids) == 0 {
			return
		}
		from += len(ids)
		for _, id := range ids {
			if !x.one(r, fhir.Key{Type: x.typ.name, ID: id}, target, visit) {
				return
			}
		}
	}
}

// one shows a resource if it does refer to the target, and reports whether to go on.
func (x *reverse) one(r *Resource, key, target fhir.Key, visit func(*Resource) bool) bool {
	other, kept, err := r.others.read(key)
	if err != nil {
		return r.miss(err)
	}
	refers, known := false, true
	if other != nil {
		refers, known = x.param.refersTo(other, target)
	}
	if !refers {
		if !known {
			r.miss(ErrNotEvaluable)
		}
		if r.others.candidates++; r.others.candidates > maxCandidates {
			r.miss(fmt.Errorf("%w: too many resources %s have referred to it", ErrUnanswered, x.typ.name))
			return false
		}
		r.others.discard(other, kept)
		return true
	}
	more := visit(other)
	r.others.discard(other, kept)
	return more
}

func (x *reverse) explain(r *Resource, c *Condition) {
	count := 0
	x.each(r, func(other *Resource) bool {
		count++
		c.find(fmt.Sprintf("%s/%s: %s", x.typ.name, other.ID(), x.next.seen(other, r.limit)))
		return len(c.Found) < foundLimit
	})
	c.Note = fmt.Sprintf("no %s that refers to it meets the condition", x.typ.name)
	if count == 0 {
		c.Note = fmt.Sprintf("no %s refers to it by %s", x.typ.name, x.param.code)
	}
}

// has compiles _has:Type:reference:parameter.
func (c *compiler) has(part, name, value string, hasValue bool) (*condition, error) {
	parts := strings.SplitN(name, ":", 4)
	if len(parts) < 4 || parts[3] == "" {
		return nil, refusal("reverse chaining is written _has:Type:reference:parameter=value, as in _has:Observation:patient:code=1234-5")
	}
	t, err := c.definitions.typeNamed(parts[1])
	if err != nil {
		return nil, refusal("%s", err.Error())
	}
	there := *c
	there.typ = t
	p, err := there.lookup(parts[2])
	switch {
	case err != nil:
		return nil, err
	case p.kind != kindReference:
		return nil, unsupported("%s of %s is no reference", p.code, t.name)
	case p.reads(leafCanonical), p.reads(leafResource):
		return nil, unsupported("%s of %s is no reference by type and id, so nothing can be found by it", p.code, t.name)
	case len(p.targets) > 0 && !slices.Contains(p.targets, c.typ.name):
		return nil, refusal("%s of %s cannot refer to %s, only to %s", p.code, t.name, c.typ.name, strings.Join(p.targets, ", "))
	}
	next, err := c.follow(t, part, parts[3], value, hasValue)
	if err != nil {
		return nil, err
	}
	c.values = max(c.values, c.counted)
	return &condition{
		param: linkedParam, source: part, wants: &wants{linked: &reverse{t, p, next}},
		text: "_has:" + t.name + ":" + p.code + ":" + next.text,
	}, nil
}
