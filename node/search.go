package node

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// searcher answers searches over current resources: by _id and identifier for every type, and
// for Subscription also by status, url and criteria. What it cannot answer is refused, never
// ignored. The same compiled criteria that match events decide here.
type searcher struct {
	defs     *search.Definitions
	store    *store.Store
	subs     *registry
	versions *versions
}

// defaultCount and maxCount bound a page.
const (
	defaultCount = 100
	maxCount     = 1000
)

// find runs a search.
func (s *searcher) find(ctx context.Context, typ string, query url.Values) (api.Found, error) {
	criteria, page, err := s.compile(typ, query)
	if err != nil {
		return api.Found{}, err
	}
	ids, err := s.candidates(typ, query)
	if err != nil {
		return api.Found{}, err
	}
	var found api.Found
	r := search.NewResource(s.defs, &json.Tree{})
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return api.Found{}, err
		}
		res, ok, err := s.store.Resource(fhir.Key{Type: typ, ID: id})
		if err != nil {
			return api.Found{}, err
		}
		if !ok || res.Deleted {
			continue
		}
		e, err := s.versions.Event(ctx, res.Version)
		if err != nil {
			return api.Found{}, fmt.Errorf("read %s version %d: %w", res.Key, res.Version, err)
		}
		t, err := json.Parse(e.Body, json.Limits{})
		if err != nil {
			return api.Found{}, fmt.Errorf("read %s version %d: %w", res.Key, res.Version, err)
		}
		r.Reset(t, search.Envelope{ID: string(id), LastUpdated: res.Time})
		switch matches, err := criteria.Decide(r); {
		case err != nil:
			return api.Found{}, fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf("whether %s matches costs too much to find out; search for fewer or shorter values", res.Key))
		case !matches:
			continue
		}
		if i := found.Total; i >= page.offset && i < page.offset+page.count {
			body, err := shown(e)
			if err != nil {
				return api.Found{}, err
			}
			found.Matches = append(found.Matches, api.Resource{Key: res.Key, Version: res.Version, Time: res.Time, Body: body})
		}
		found.Total++
	}
	if next := page.offset + page.count; page.count > 0 && next < found.Total {
		found.Next = page.next(query)
	}
	return found, nil
}

// page is which of the matches are wanted.
type page struct{ offset, count int }

func (p page) next(query url.Values) url.Values {
	out := url.Values{}
	for k, v := range query {
		out[k] = v
	}
	out.Set("_offset", strconv.Itoa(p.offset+p.count))
	return out
}

// answerable are the search parameters that find knows an index, or a short list, for.
func answerable(typ, name string) bool {
	base, _, _ := strings.Cut(name, ":")
	switch base {
	case "_id", "identifier":
		return base == name
	case "status", "url", "criteria":
		return typ == "Subscription"
	}
	return false
}

// selecting checks that a query of a conditional interaction names what it looks for, and
// nothing that shapes an answer: a page of the matches must not be taken for all of them.
func (s *searcher) selecting(typ string, query url.Values) error {
	for name := range query {
		if !answerable(typ, name) {
			return fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("parameter %q cannot stand in a condition; it takes %s", name, conditions(typ)))
		}
	}
	if len(query) == 0 {
		return fhir.Refuse(fhir.IssueValue, "", "a condition must name what it looks for; it takes "+conditions(typ))
	}
	return nil
}

func conditions(typ string) string { return strings.TrimSuffix(known(typ), " and _count") }

// compile checks every parameter and makes one criteria of those that select.
func (s *searcher) compile(typ string, query url.Values) (*search.Criteria, page, error) {
	p := page{count: defaultCount}
	var terms []string
	for _, name := range sortedNames(query) {
		values := query[name]
		switch {
		case name == "_count" || name == "_offset":
			n, err := strconv.Atoi(values[len(values)-1])
			if err != nil || n < 0 {
				return nil, p, fhir.Refuse(fhir.IssueValue, "", name+" must be a number from 0 on")
			}
			if name == "_count" {
				p.count = min(n, maxCount)
			} else {
				p.offset = n
			}
		case name == "_total" || name == "_format" || name == "_pretty":
			// The total is always exact; the others are the HTTP face's.
		case name == "_summary" && len(values) == 1 && values[0] == "count":
			p.count = 0
		case name == "_summary" && len(values) == 1 && values[0] == "false":
		case answerable(typ, name):
			for _, v := range values {
				terms = append(terms, url.QueryEscape(name)+"="+url.QueryEscape(v))
			}
		default:
			return nil, p, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf(
				"search parameter %q cannot be answered for %s by this version; it knows %s", name, typ, known(typ)))
		}
	}
	c, err := s.defs.Compile(typ + "?" + strings.Join(terms, "&"))
	return c, p, err
}

func known(typ string) string {
	if typ == "Subscription" {
		return "_id, identifier, status, url, criteria and _count"
	}
	return "_id, identifier and _count"
}

// candidates are the ids that can match: every Subscription, or what the store's index gives
// for the first selecting parameter, or all of the type where nothing selects.
func (s *searcher) candidates(typ string, query url.Values) ([]fhir.ID, error) {
	if ids, ok := query["_id"]; ok {
		return idList(ids), nil
	}
	if typ == "Subscription" {
		var ids []fhir.ID
		for _, sub := range s.subs.all() {
			ids = append(ids, sub.id)
		}
		return ids, nil
	}
	if values, ok := query["identifier"]; ok {
		return s.byIdentifier(typ, values[0])
	}
	var ids []fhir.ID
	after := fhir.ID("")
	for {
		list, err := s.store.List(typ, after, 1000)
		if err != nil || len(list) == 0 {
			return ids, err
		}
		for _, r := range list {
			ids = append(ids, r.Key.ID)
		}
		after = list[len(list)-1].Key.ID
	}
}

// idList takes the ids out of _id parameters: a list in one is an OR, several are an AND that
// the criteria decides.
func idList(values []string) []fhir.ID {
	var ids []fhir.ID
	for v := range strings.SplitSeq(values[0], ",") {
		v = v[strings.LastIndexByte(v, '/')+1:]
		if id := fhir.ID(v); id.Valid() && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// byIdentifier finds candidates for one identifier parameter. They are verified, so an index
// that gives too many does no harm.
func (s *searcher) byIdentifier(typ, value string) ([]fhir.ID, error) {
	var ids []fhir.ID
	for _, one := range splitEscaped(value, ',') {
		parts := splitEscaped(one, '|')
		system, code := store.AnySystem, unescape(parts[0])
		if len(parts) > 1 {
			system, code = unescape(parts[0]), unescape(parts[1])
		}
		if code == "" {
			return nil, fhir.Refuse(fhir.IssueNotSupported, "", "identifier with a system and no value cannot be answered by this version; give system|value")
		}
		code = foldIdentifier(code)
		found, err := s.store.IdentifierLookup(typ, system, code, math.MaxInt32)
		if err != nil {
			return nil, err
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// splitEscaped splits at a separator that is not escaped with a backslash (FHIR R4 3.1.1.4.0.3).
func splitEscaped(s string, sep byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func sortedNames(query url.Values) []string {
	names := make([]string, 0, len(query))
	for k := range query {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// identifiers are the top-level identifiers of a resource, for the store's index.
func identifiers(t *json.Tree) [][2]string {
	var out [][2]string
	for _, i := range search.IdentifierTokens(t) {
		out = append(out, [2]string{i.System, foldIdentifier(i.Value)})
	}
	return out
}

// foldIdentifier brings an identifier's value to the one form that the store's index holds.
// Criteria compare tokens without regard to case; what is found by the index is verified by
// them.
func foldIdentifier(v string) string { return strings.ToLower(strings.ToUpper(v)) }
