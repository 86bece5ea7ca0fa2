package search

import (
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// list asks for resources that a List refers to (R4 3.1.1.4.16): _list=42 means what
// _has:List:item:_id=42 means, and reads one resource instead of all that refer to this one.
type list struct {
	item *param // of List
	ids  []fhir.ID
}

func (x *list) parts(func(*condition)) {}

func (x *list) hit(r *Resource) bool {
	target := fhir.Key{Type: r.name, ID: fhir.ID(r.ID())}
	if r.container != nil || target.ID == "" {
		return false
	}
	for _, id := range x.ids {
		other, kept, err := r.others.read(fhir.Key{Type: "List", ID: id})
		if err != nil {
			if !r.miss(err) {
				return false
			}
			continue
		}
		if !r.visit(other) {
			r.others.discard(other, kept)
			return false
		}
		refers, known := false, true
		if other != nil {
			refers, known = x.item.refersTo(other, target)
		}
		r.others.discard(other, kept)
		if refers {
			return true
		}
		if !known {
			r.miss(ErrNotEvaluable)
		}
	}
	return false
}

func (x *list) explain(r *Resource, c *Condition) {
	c.Note = "no such List has the resource among its items"
	for _, id := range x.ids {
		other, kept, err := r.others.read(fhir.Key{Type: "List", ID: id})
		switch {
		case err != nil:
			c.find("List/" + string(id) + ": " + err.Error())
		case other == nil:
			c.find("List/" + string(id) + ": not known here")
		}
		r.others.discard(other, kept)
	}
}

// list compiles _list=id,id.
func (c *compiler) list(part, modifier, value string, modified bool) (*condition, error) {
	if modified {
		return nil, unsupported("_list takes no modifier %s", shown(modifier))
	}
	t := c.definitions.types["List"]
	if t == nil || t.params["item"] == nil {
		return nil, unsupported("this version of FHIR has no List to search by")
	}
	x := &list{item: t.params["item"]}
	for _, v := range splitEscaped(value, ',') {
		if c.values++; c.values > maxValues {
			return nil, &refused{fhir.IssueTooLong, "the criteria has too many values"}
		}
		id := fhir.ID(strings.TrimPrefix(v, "List/"))
		if strings.HasPrefix(v, "$") {
			return nil, unsupported("functional lists such as $current-allergies are not kept here; name a List by its id")
		}
		if !id.Valid() {
			return nil, refusal("the value must be the id of a List")
		}
		x.ids = append(x.ids, id)
	}
	slices.Sort(x.ids)
	x.ids = slices.Compact(x.ids)
	var ids []string
	for _, id := range x.ids {
		ids = append(ids, string(id))
	}
	return &condition{param: linkedParam, source: part, wants: &wants{linked: x}, text: "_list=" + strings.Join(ids, ",")}, nil
}
