package node

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// searcher answers searches over current resources. The same compiled criteria that match events
// decide here; an index of the store finds candidates where the criteria has a clue for one (_id,
// identifier, a reference), else every resource of the type is looked at, for as long as budget.
// What cannot be answered is refused, never ignored, unless its client asks for that.
//
// A search is of one position of EVENTS: each resource is taken in the version that it had there,
// and the links to further pages carry the position. So a walk through all pages shows each
// resource once, whatever is written meanwhile. What is deleted meanwhile is left out, as is a
// resource that was found by an identifier which it has no more.
//
// Start reading at search (the whole), then search_find.go (candidates, order, a page),
// search_include.go and search_read.go.
type searcher struct {
	defs     *definitions
	store    *store.Store
	versions *versions
	ring     *ring
	vault    *vault           // of the secrets that are found
	others   match.Repository // what criteria are told of other resources
	audits   *audits          // of attempts, which are found besides the stored ones
	budget   time.Duration    // of one search; 0 means searchBudget
	// scans has room for the searches that may look at every resource of a type at a time: each
	// keeps a processor busy, and deliveries come first. Nil is no bound.
	scans chan struct{}
}

// searchBudget is how long a search may look for what nobody indexed. Whoever searches waits for
// it with a connection open, and what it reads is read from under the deliveries.
const searchBudget = 2 * time.Second

// Bounds of a page.
const (
	defaultCount = 100
	maxCount     = 1000
	maxIncluded  = 1000
	maxPageBytes = 8 << 20 // of bodies, matches and included ones each; the rest is on the next page
)

// totalMode is what _total asks for (R4 search.html#total).
type totalMode string

const (
	totalIfCheap  totalMode = "" // given where it is found out in a tenth of the budget
	totalNone     totalMode = "none"
	totalEstimate totalMode = "estimate"
	totalAccurate totalMode = "accurate"
)

// asked is a search as it was understood.
type asked struct {
	typ      string
	criteria *search.Criteria
	filtered bool // the criteria has conditions
	order    order
	count    int
	offset   int
	total    totalMode
	include  []include // _include and _revinclude
	cursor   *cursor   // of a further page; nil on the first

	self    url.Values   // the parameters that were understood
	ignored []fhir.Issue // those that were not, where the client allows that
}

// result is the answer to a search.
type result struct {
	matches  []api.Resource
	included []api.Resource // none twice, and none that is a match of this page
	total    int            // -1: not known
	next     *cursor        // nil: there is no further page
	warnings []fhir.Issue
}

// find answers a search of the HTTP face.
func (s *searcher) find(ctx context.Context, typ string, query url.Values, lenient bool) (api.Found, error) {
	a, err := s.understand(typ, query, lenient)
	if err != nil {
		return api.Found{}, err
	}
	res, err := s.search(ctx, a)
	if err != nil {
		return api.Found{}, err
	}
	found := api.Found{Matches: res.matches, Included: res.included, Self: a.self, Warnings: append(a.ignored, res.warnings...)}
	if res.total >= 0 {
		found.Total = &res.total
	}
	if res.next != nil {
		found.Next = maps.Clone(a.self)
		found.Next.Del("_offset") // the cursor stands behind what it skipped
		found.Next.Set("_cursor", res.next.String())
	}
	return found, nil
}

// resultNames are the parameters that shape an answer and select nothing.
var resultNames = []string{"_count", "_offset", "_cursor", "_sort", "_total", "_include", "_revinclude", "_format", "_pretty", "_summary", "_elements"}

// onceNames are those of them that have one value: which of two is meant nobody can tell.
var onceNames = []string{"_count", "_offset", "_cursor", "_sort", "_total"}

// maxParameters bounds the parameters of a search: each is compiled by itself.
const maxParameters = 256

// understand reads the parameters of a search. With lenient what is not understood is left out and
// listed (R4 search.html#errors, Prefer: handling), else it is refused.
func (s *searcher) understand(typ string, query url.Values, lenient bool) (*asked, error) {
	a := &asked{typ: typ, count: defaultCount, self: url.Values{}}
	parameters := 0
	for _, values := range query {
		parameters += len(values)
	}
	if parameters > maxParameters {
		return nil, fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf("a search has at most %d parameters, this one has %d", maxParameters, parameters))
	}
	var terms []string
	for _, name := range slices.Sorted(maps.Keys(query)) {
		for _, value := range query[name] {
			term, err := "", error(nil)
			if len(query[name]) > 1 && slices.Contains(onceNames, name) {
				err = fhir.Refuse(fhir.IssueValue, "", name+" is given more than once")
			} else {
				term, err = s.parameter(a, name, value)
			}
			switch fe := fhir.AsError(err); {
			case err == nil:
				a.self.Add(name, value)
			case fe == nil || !lenient:
				return nil, err
			default:
				a.ignored = append(a.ignored, ignored(name, fe))
				continue
			}
			if term != "" {
				terms = append(terms, term)
			}
		}
	}
	if len(a.self["_count"]) > 0 {
		a.self.Set("_count", strconv.Itoa(a.count))
	}
	var err error
	a.criteria, err = s.defs.now().Compile(typ + "?" + strings.Join(terms, "&"))
	a.filtered = len(terms) > 0
	return a, err
}

func ignored(name string, why *fhir.Error) fhir.Issue {
	issue := why.Issues[0]
	return fhir.Issue{Type: fhir.IssueNotSupported, Diagnostics: fmt.Sprintf("parameter %q was ignored: %s", shortened(name), issue.Diagnostics)}
}

// shortened bounds what an answer repeats of its client's words.
func shortened(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}

// parameter understands one parameter. One that selects comes back as a term of the criteria.
func (s *searcher) parameter(a *asked, name, value string) (term string, err error) {
	base, modifier, _ := strings.Cut(name, ":")
	if slices.Contains(resultNames, base) && modifier != "" && base != "_include" && base != "_revinclude" {
		return "", fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("%s takes no modifier %q", base, shortened(modifier)))
	}
	switch base {
	case "_count":
		a.count, err = wholeNumber(name, value)
		a.count = min(a.count, maxCount)
	case "_offset":
		a.offset, err = wholeNumber(name, value)
	case "_cursor":
		a.cursor, err = parseCursor(value)
	case "_sort":
		a.order, err = parseOrder(value)
	case "_total":
		switch a.total = totalMode(value); a.total {
		case totalNone, totalEstimate, totalAccurate:
		default:
			err = fhir.Refuse(fhir.IssueValue, "", "_total is none, estimate or accurate")
		}
	case "_include", "_revinclude":
		var i include
		if i, err = s.parseInclude(a.typ, base == "_revinclude", modifier, value); err == nil {
			a.include = append(a.include, i)
		}
	case "_format", "_pretty", "_summary", "_elements":
		// The form of the answer is the HTTP face's.
	default:
		return s.selecting(a.typ, name, value)
	}
	return "", err
}

func wholeNumber(name, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0, fhir.Refuse(fhir.IssueValue, "", name+" must be a number from 0 on")
	}
	return n, nil
}

// selecting checks a parameter that is no result parameter, and writes it as a criteria has it.
func (s *searcher) selecting(typ, name, value string) (term string, err error) {
	term = url.QueryEscape(name) + "=" + url.QueryEscape(value)
	c, err := s.defs.now().Compile(typ + "?" + term)
	if err != nil {
		return "", err
	}
	// Criteria accept result parameters of other servers without effect. In a search each has an
	// effect that its client waits for.
	if c.Canonical() == typ {
		return "", fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("parameter %q is not supported in a search", shortened(name)))
	}
	return term, nil
}

// condition compiles the query of a conditional interaction or reference. It must name what it
// looks for, and nothing that shapes an answer: a page of the matches must not be taken for all of
// them. What looks at other resources is refused: no expectation of the log covers a change of
// those, so two writers could both find their condition met.
func (s *searcher) condition(typ, query string) (*asked, error) {
	values, err := url.ParseQuery(query)
	if err != nil || len(values) == 0 {
		return nil, fhir.Refuse(fhir.IssueValue, "", "a condition must be a search query such as identifier=http://example.org|123")
	}
	for name := range values {
		base, _, _ := strings.Cut(name, ":")
		switch {
		case slices.Contains(resultNames, base):
			return nil, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("parameter %q cannot stand in a condition: it selects nothing", shortened(name)))
		case strings.Contains(name, "."), base == "_has", base == "_list", base == "_filter":
			return nil, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf(
				"parameter %q cannot stand in a condition: it may look at other resources, whose change nothing would notice; name what the resource itself holds", shortened(name)))
		}
	}
	a, err := s.understand(typ, values, false)
	if fe := fhir.AsError(err); fe != nil {
		return nil, fhir.Refuse(fe.Issues[0].Type, "", "the condition cannot be evaluated: "+fe.Issues[0].Diagnostics)
	}
	if err != nil {
		return nil, err
	}
	if a.criteria.NeedsRepository() {
		return nil, fhir.Refuse(fhir.IssueNotSupported, "", "a condition cannot look at other resources, whose change nothing would notice")
	}
	a.count, a.total = 2, totalNone // whether there is one, and whether there are more
	return a, nil
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

// parameters lists what a search of a type may have, for the CapabilityStatement.
func (s *searcher) parameters(typ string) []api.SearchParameter {
	var out []api.SearchParameter
	for _, p := range s.defs.now().Parameters(typ) {
		one := api.SearchParameter{Name: p.Code, Type: p.Type}
		if targets, ok := s.defs.now().Reference(typ, p.Code); ok {
			one.Include, one.Targets = true, targets
		}
		out = append(out, one)
	}
	return out
}
