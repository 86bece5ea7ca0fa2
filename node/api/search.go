package api

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/url"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// search is GET /fhir/{Type}.
func (s *server) search(c *call) error {
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return badRequest("the query cannot be read: check its % escapes")
	}
	return s.answerSearch(c, q)
}

// searchForm is POST /fhir/{Type}/_search. Parameters of address and body are joined
// (FHIR R4 3.1.1.2).
func (s *server) searchForm(c *call) error {
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return badRequest("the query cannot be read: check its % escapes")
	}
	if err := c.bodyIs([]string{mimeForm}); err != nil {
		return err
	}
	body, err := c.readBody(1 << 20)
	if err != nil {
		return err
	}
	form, err := url.ParseQuery(string(bytes.TrimSpace(body)))
	if err != nil {
		return badRequest("the form cannot be read: check its % escapes")
	}
	for name, values := range form {
		q[name] = append(q[name], values...)
	}
	if f := form.Get("_format"); f != "" {
		if c.mime = askedFormat(f); c.mime == "" {
			c.mime = mimeFHIR
			return notAcceptable()
		}
	}
	return s.answerSearch(c, q)
}

func (s *server) answerSearch(c *call, q url.Values) error {
	b, err := s.searchBundle(c.r.Context(), c, c.r.PathValue("Type"), q)
	if err != nil {
		return err
	}
	c.sendBundle(b)
	return nil
}

// searchBundle answers a search. The self link says what was understood, and so does an entry with
// an OperationOutcome where something was left out (FHIR R4 search.html#conformance and #errors).
func (s *server) searchBundle(ctx context.Context, c *call, typ string, q url.Values) (*bundle, error) {
	if err := s.hasType(typ); err != nil {
		return nil, err
	}
	lenient := preferLenient(c.r.Header.Values("Prefer"))
	form, warnings, err := s.readForm(q, lenient)
	if err != nil {
		return nil, err
	}
	found, err := s.backend.Search(ctx, typ, form.selecting(q), lenient)
	if err != nil {
		return nil, err
	}
	b := &bundle{typ: "searchset", total: found.Total, self: c.base + "/" + typ + queryOf(form.link(found.Self, q))}
	if found.Next != nil {
		b.next = c.base + "/" + typ + queryOf(form.link(found.Next, q))
	}
	for i, r := range append(found.Matches, found.Included...) {
		mode := "match"
		if i >= len(found.Matches) {
			mode = "include"
		}
		body, err := form.show(r, mode == "match")
		if err != nil {
			return nil, err
		}
		b.entries = append(b.entries, bundleEntry{fullURL: c.base + "/" + r.Key.String(), resource: body, search: mode})
	}
	if warnings = append(warnings, found.Warnings...); len(warnings) > 0 {
		o := newOutcome(c.id, issuesOf(severityWarning, warnings)...)
		b.entries = append(b.entries, bundleEntry{resource: encode(o), search: "outcome"})
	}
	return b, nil
}

// preferLenient reports whether parameters that are not understood may be left out (RFC 7240,
// FHIR R4 search.html#errors). Whoever says nothing is refused: an answer to another question is no answer.
func preferLenient(headers []string) bool {
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		for token := range strings.SplitSeq(part, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(token), "=")
			if strings.EqualFold(strings.TrimSpace(name), "handling") {
				return strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "lenient")
			}
		}
	}
	return false
}

// formNames are the parameters that say how much of each resource is shown.
var formNames = []string{"_summary", "_elements"}

// maxElements bounds the names of _elements: each is held against each member of each match.
const maxElements = 100

// form is how much of each resource a search shows.
type form struct {
	table    *subsetTable
	summary  string // of _summary, where it has an effect: count, true, text or data
	elements []string
	named    []string // those of formNames that were understood
}

// readForm understands _summary and _elements (FHIR R4 search.html#summary and #elements).
func (s *server) readForm(q url.Values, lenient bool) (f form, warnings []fhir.Issue, err error) {
	f.table = s.subsets
	for _, name := range formNames {
		if _, ok := q[name]; !ok {
			continue
		}
		issue := f.read(name, q[name])
		switch {
		case issue == "":
			f.named = append(f.named, name)
		case lenient:
			warnings = append(warnings, fhir.Issue{Type: fhir.IssueNotSupported, Diagnostics: "parameter \"" + name + "\" was ignored: " + issue})
		default:
			return f, nil, fhir.Refuse(fhir.IssueValue, "", issue)
		}
	}
	switch {
	case f.summary != "" && len(f.elements) > 0:
		return f, nil, fhir.Refuse(fhir.IssueValue, "", "_summary and _elements contradict each other: give one of them")
	case f.summary == "text" && (hasParameter(q, "_include") || hasParameter(q, "_revinclude")):
		return f, nil, fhir.Refuse(fhir.IssueValue, "", "_summary=text cannot be combined with _include or _revinclude")
	}
	return f, warnings, nil
}

func hasParameter(q url.Values, name string) bool {
	for key := range q {
		if base, _, _ := strings.Cut(key, ":"); base == name {
			return true
		}
	}
	return false
}

// read takes one of the parameters; what is wrong with it comes back.
func (f *form) read(name string, values []string) string {
	if name == "_summary" {
		switch v := values[0]; {
		case len(values) > 1:
			return "_summary is given more than once"
		case v == "false":
		case v == "true", v == "text", v == "data", v == "count":
			f.summary = v
		default:
			return "_summary is true, text, data, count or false"
		}
		return ""
	}
	for _, list := range values {
		for e := range strings.SplitSeq(list, ",") {
			if !elementName(e) {
				f.elements = nil
				return "_elements is a list of names of elements such as identifier,name"
			}
			if f.elements = append(f.elements, e); len(f.elements) > maxElements {
				f.elements = nil
				return fmt.Sprintf("_elements names more than %d elements", maxElements)
			}
		}
	}
	return ""
}

func elementName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.'
	}) < 0
}

// selecting is the query without what is about the form of the answer.
func (f *form) selecting(q url.Values) url.Values {
	out := maps.Clone(q)
	for _, name := range append([]string{"_format", "_pretty"}, formNames...) {
		out.Del(name)
	}
	if f.summary == "count" {
		out.Set("_count", "0")
	}
	return out
}

// link adds to the query of a link what was understood of the form.
func (f *form) link(out, q url.Values) url.Values {
	out = maps.Clone(out)
	if out == nil {
		out = url.Values{}
	}
	if f.summary == "count" {
		out.Del("_count")
		if n, ok := q["_count"]; ok {
			out["_count"] = n
		}
	}
	for _, name := range f.named {
		out[name] = q[name]
	}
	keepFormat(out, q)
	return out
}

func queryOf(q url.Values) string {
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}
