package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
)

// A payload search (HAPI's subscription-payload-search-criteria) is run by searcher when a
// notification is sent, of the newest states that there are. Its result is sent whole or not at all:
// a receiver that took a part of it for the whole could not know.

// shapesAnswer are the parameters that have a meaning in the answer to a client alone.
var shapesAnswer = []string{"_cursor", "_summary", "_elements", "_total"}

// understandPayload reads a payload search whose placeholders are filled.
func (s *searcher) understandPayload(query string) (*asked, error) {
	typ, rest, _ := strings.Cut(query, "?")
	if !s.defs.now().HasType(typ) {
		return nil, fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("a payload search begins with a resource type and a question mark, such as Patient?, not with %q", shortened(typ)))
	}
	values, err := url.ParseQuery(rest)
	if err != nil {
		return nil, fhir.Refuse(fhir.IssueValue, "", "the query of the payload search cannot be read: check its % escapes")
	}
	for _, name := range shapesAnswer {
		if values.Has(name) {
			return nil, fhir.Refuse(fhir.IssueNotSupported, "", name+" has no place in a payload search, whose result is a transaction of whole resources")
		}
	}
	a, err := s.understand(typ, values, false)
	if err != nil {
		return nil, err
	}
	a.total = totalNone
	if !values.Has("_count") {
		a.count = maxCount
	} else if a.count == 0 {
		return nil, fhir.Refuse(fhir.IssueValue, "", "_count=0 leaves nothing to send")
	}
	return a, nil
}

// checkPayload says whether a payload search can be answered for what a criteria finds, by an
// example of each type. The criteria is nil where it was refused.
func (s *searcher) checkPayload(query string, criteria *search.Criteria) error {
	types := []string{"Patient"}
	if criteria != nil && !criteria.AnyType() {
		types = criteria.Types()
	}
	for _, typ := range types {
		filled, err := fhir.ExpandPayloadSearch(query, fhir.Key{Type: typ, ID: "example"})
		if err == nil {
			_, err = s.understandPayload(filled)
		}
		if refused := fhir.AsError(err); refused != nil {
			return fhir.Refuse(refused.Issues[0].Type, "", fmt.Sprintf("payload search about a %s: %s", typ, refused.Issues[0].Diagnostics))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// payload answers a payload search about a resource: matches first, then what they include.
func (s *searcher) payload(ctx context.Context, query string, k fhir.Key) ([]api.Resource, error) {
	filled, err := fhir.ExpandPayloadSearch(query, k)
	if err != nil {
		return nil, err
	}
	a, err := s.understandPayload(filled)
	if err != nil {
		return nil, err
	}
	found, err := s.search(ctx, a)
	if err != nil {
		return nil, err
	}
	cut := slices.ContainsFunc(found.warnings, func(i fhir.Issue) bool { return i.Type == fhir.IssueIncomplete })
	limited := len(a.self["_count"]) > 0 && len(found.matches) == a.count // as its author wants
	all := append(found.matches, found.included...)
	size := 0
	for _, r := range all {
		size += len(r.Body)
	}
	if cut || found.next != nil && !limited || size > maxPageBytes {
		return nil, fmt.Errorf("the payload search finds more than one notification carries: %d matches and %d included resources, %d MiB in all, found in %v; narrow it, or limit it with _count",
			maxCount, maxIncluded, maxPageBytes>>20, searchBudget)
	}
	return all, nil
}

// searchFailed words a payload search that was not answered: what a moment may mend is tried again
// without counting, anything else is the Subscription's fault.
func searchFailed(err error) error {
	refused := fhir.AsError(err)
	passing := refused != nil && slices.ContainsFunc(refused.Issues, func(i fhir.Issue) bool {
		return i.Type == fhir.IssueTransient || i.Type == fhir.IssueThrottled
	})
	if passing || unavailable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: payload search: %w", deliver.ErrUnavailable, err)
	}
	return fmt.Errorf("payload search: %w", err)
}

// bundleID names the Bundle of a notification: the same at every attempt.
func bundleID(n deliver.Notification) string {
	h := sha256.Sum256([]byte(n.Name()))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // version 8, of one's own making (RFC 9562 5.8)
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
