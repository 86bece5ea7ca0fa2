package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
)

// include is one _include or _revinclude (R4 search.html#include): resources that the matches refer to, or
// that refer to the matches, by a reference parameter of a type.
type include struct {
	reverse bool
	iterate bool   // from included resources as well
	typ     string // whose parameter it is; * for every type
	param   string // * for all reference parameters of it
	target  string // only resources of this type are referred to; empty: of any
}

// parseInclude reads Type:param, Type:param:target, Type:* or *. iterate, and recurse as it was
// called once, follows the references of what was included too.
func (s *searcher) parseInclude(typ string, reverse bool, modifier, value string) (include, error) {
	name := "_include"
	if reverse {
		name = "_revinclude"
	}
	i := include{reverse: reverse}
	switch modifier {
	case "":
	case "iterate", "recurse":
		i.iterate = true
	default:
		return i, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("%s takes the modifier :iterate alone, not %q", name, shortened(modifier)))
	}
	if value == "*" && !reverse {
		i.typ, i.param = "*", "*"
		return i, nil
	}
	part := strings.Split(value, ":")
	if len(part) < 2 || len(part) > 3 {
		text := name + " is of the form Type:parameter or Type:parameter:TargetType"
		if reverse && value == "*" {
			text += "; * would look through every type, so name the types that you want"
		}
		return i, fhir.Refuse(fhir.IssueValue, "", text)
	}
	i.typ, i.param = part[0], part[1]
	if len(part) == 3 {
		i.target = part[2]
	}
	return i, s.checkInclude(name, i)
}

func (s *searcher) checkInclude(name string, i include) error {
	if !s.defs.now().HasType(i.typ) {
		return fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("%s names the resource type %q, which there is not", name, shortened(i.typ)))
	}
	if i.target != "" && !s.defs.now().HasType(i.target) {
		return fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("%s names the target type %q, which there is not", name, shortened(i.target)))
	}
	if i.param == "*" {
		return nil
	}
	targets, ok := s.defs.now().Reference(i.typ, i.param)
	switch {
	case !ok:
		return fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("%s names %s:%s, which is no parameter that refers to resources by their id; %s has %s",
			name, i.typ, shortened(i.param), i.typ, strings.Join(s.defs.now().References(i.typ), ", ")))
	case i.target != "" && len(targets) > 0 && !slices.Contains(targets, i.target):
		return fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("%s names %s:%s, which cannot refer to %s, only to %s",
			name, i.typ, i.param, i.target, strings.Join(targets, ", ")))
	}
	return nil
}

// inclusion gathers what is included in one page.
type inclusion struct {
	*finding
	have  map[fhir.Key]bool // matches of the page, and what was included
	out   []api.Resource
	bytes int
	cut   string // why there is not more; empty: that is all
}

// includes finds what a page includes: at the search's position, each resource once. It is bounded
// in number, size and time; where it is cut, a warning says so, since the matches stand without it.
func (f *finding) includes(ctx context.Context, matches []api.Resource) ([]api.Resource, []fhir.Issue, error) {
	in := &inclusion{finding: f, have: make(map[fhir.Key]bool, 2*len(matches))}
	for _, m := range matches {
		in.have[m.Key] = true
	}
	again := false // matches come first, then what they included, and so on
	for round := matches; len(round) > 0 && in.cut == ""; again = true {
		first := len(in.out)
		for _, from := range round {
			if err := in.from(ctx, from, again); err != nil {
				return nil, nil, err
			}
		}
		round = in.out[first:]
	}
	var warnings []fhir.Issue
	if in.cut != "" {
		warnings = append(warnings, fhir.Issue{Type: fhir.IssueIncomplete, Diagnostics: fmt.Sprintf(
			"not everything that _include and _revinclude ask for is in this page: %s; ask for fewer matches with _count, or search for the rest", in.cut)})
	}
	return in.out, warnings, nil
}

// from includes what belongs to one resource. again says that it was itself included.
func (in *inclusion) from(ctx context.Context, r api.Resource, again bool) error {
	var forward, reverse []include
	for _, i := range in.include {
		switch {
		case again && !i.iterate:
		case i.reverse && (i.target == "" || i.target == r.Key.Type):
			reverse = append(reverse, i)
		case !i.reverse && (i.typ == "*" || i.typ == r.Key.Type):
			forward = append(forward, i)
		}
	}
	targets, err := in.links(ctx, r, forward)
	if err != nil {
		return err
	}
	for _, target := range targets {
		if err := in.add(ctx, target, nil); err != nil {
			return err
		}
	}
	for _, i := range reverse {
		if err := in.referring(ctx, i, r.Key); err != nil {
			return err
		}
	}
	return nil
}

// links lists what a resource refers to by includes.
func (in *inclusion) links(ctx context.Context, r api.Resource, by []include) (out []fhir.Key, err error) {
	if len(by) == 0 {
		return nil, nil
	}
	opened, err := in.open(ctx, record.Event{Key: r.Key, Sequence: r.Version, Time: r.Time, Body: r.Body})
	if err != nil {
		return nil, err
	}
	for _, i := range by {
		params := []string{i.param}
		if i.param == "*" {
			params = in.s.defs.now().References(r.Key.Type)
		}
		for _, p := range params {
			for _, target := range opened.Links(p) {
				if i.target == "" || target.Type == i.target {
					out = append(out, target)
				}
			}
		}
	}
	return out, nil
}

// referring includes what refers to a resource by the parameter. The index knows what ever did;
// the version at the search's position decides.
func (in *inclusion) referring(ctx context.Context, i include, target fhir.Key) error {
	params := []string{i.param}
	if i.param == "*" {
		params = in.s.defs.now().References(i.typ)
	}
	for after := fhir.ID(""); in.cut == ""; {
		if in.late() {
			return nil
		}
		list, err := in.s.store.Referrers(target, i.typ, after, firstItems)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1]
		for _, id := range list {
			err := in.add(ctx, fhir.Key{Type: i.typ, ID: id}, func(e record.Event) (bool, error) {
				r, err := in.open(ctx, e)
				if err != nil {
					return false, err
				}
				return slices.ContainsFunc(params, func(p string) bool { return slices.Contains(r.Links(p), target) }), nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// late cuts what takes too long.
func (in *inclusion) late() bool {
	if !in.passed() {
		return false
	}
	in.cut = fmt.Sprintf("the search's time of %v was over", in.budget)
	return true
}

// add includes a resource once, if it is there and fits (nil: any does).
func (in *inclusion) add(ctx context.Context, key fhir.Key, fits func(record.Event) (bool, error)) error {
	if in.have[key] || in.cut != "" {
		return nil
	}
	if in.late() {
		return nil
	}
	res, known, err := in.s.store.Resource(key)
	if err != nil || !known {
		return err
	}
	it, ok, err := in.s.state(res, in.at, in.deadline)
	if errors.Is(err, errLate) {
		in.late()
		return nil
	}
	if err != nil || !ok {
		return err
	}
	e, err := in.s.versions.Event(ctx, it.version)
	if err != nil {
		return fmt.Errorf("read %s version %d: %w", key, it.version, err)
	}
	if fits != nil {
		if ok, err := fits(e); err != nil || !ok {
			return err
		}
	}
	if len(in.out) == maxIncluded || in.bytes+len(e.Body) > maxPageBytes {
		in.cut = fmt.Sprintf("a page includes at most %d resources and %d MiB", maxIncluded, maxPageBytes>>20)
		return nil
	}
	body, err := in.s.vault.shown(ctx, e)
	if err != nil {
		return err
	}
	in.have[key] = true
	in.bytes += len(e.Body)
	in.out = append(in.out, api.Resource{Key: key, Version: it.version, Time: e.Time, Body: body})
	return nil
}
