package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// transaction is a Bundle that happens whole or not at all. Preparing reads (conditional
// creates and references, patches, owners); what was read goes into the writes as demands, so
// that committing fails where somebody changed it meanwhile, and all is prepared again.
type transaction struct {
	s        *server
	c        *call
	entries  []*entry
	creates  map[int]Write // by entry: POSTs, with the ids that they get unless something matches
	prepared bool          // something was read
	lost     bool          // to somebody faster: what was prepared could not be committed
	answers  []bundleEntry // by entry

	// Made anew by each preparation:
	targets map[string]string // fullUrl → Type/id
	found   map[string]string // conditional references already looked up
	where   map[int]Write     // by entry: conditional ones, with what their conditions found
	none    map[int]bool      // by entry: nothing is to be written, the answer is known
	current bool              // what was acknowledged before the preparation is seen
	writes  []Write           // in FHIR's order
	of      []int             // entry of each write
}

func (s *server) newTransaction(c *call, entries []*entry) (*transaction, error) {
	tx := &transaction{s: s, c: c, entries: entries, creates: map[int]Write{}, answers: make([]bundleEntry, len(entries))}
	if err := tx.unique(); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.method != http.MethodPost {
			continue
		}
		w, err := c.prepareCreate(e.res, fmt.Sprintf("entry %d", e.n), e.ifNoneExist)
		if err != nil {
			return nil, place(err, e.n)
		}
		tx.creates[e.n] = w
	}
	return tx, nil
}

// unique refuses entries that would change one resource twice, and names that stand for two:
// the outcome would depend on their order (FHIR R4 3.1.0.11.2).
func (tx *transaction) unique() error {
	seen := map[string]int{}
	once := func(what, name string, n int) error {
		if first, twice := seen[what+name]; twice {
			return place(fhir.Refuse(fhir.IssueInvariant, "", fmt.Sprintf("entry %d of the transaction has the same %s", first, what)), n)
		}
		seen[what+name] = n
		return nil
	}
	for _, e := range tx.entries {
		var err error
		switch e.method {
		case http.MethodGet, http.MethodHead:
			continue
		case http.MethodPost:
			if e.ifNoneExist != "" {
				err = tx.onceCreated(e, once)
			}
		default:
			if !e.conditional() { // what that is about is seen in preparing
				err = once("resource", e.target.key.String(), e.n)
			}
		}
		if err == nil && e.fullURL != "" {
			err = once("fullUrl", e.fullURL, e.n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// onceCreated compares conditional creates by what they ask for: one query has many spellings,
// and each of two entries would find nothing and create.
func (tx *transaction) onceCreated(e *entry, once func(what, name string, n int) error) error {
	q, err := conditionalQuery(e.ifNoneExist, e.target.key.Type)
	if err != nil {
		return place(err, e.n)
	}
	values, err := url.ParseQuery(q)
	if err != nil {
		return place(badRequest("ifNoneExist cannot be read: check its % escapes"), e.n)
	}
	for _, v := range values {
		slices.Sort(v) // repeated parameters are joined with and, in whatever order
	}
	return once("ifNoneExist", e.target.key.Type+"?"+values.Encode(), e.n)
}

// commit prepares the writes and makes them.
func (tx *transaction) commit(ctx context.Context) error {
	tx.lost = false
	if err := tx.prepare(ctx); err != nil {
		return err
	}
	if len(tx.writes) == 0 {
		return nil
	}
	done, err := tx.s.backend.Transaction(ctx, tx.writes)
	if err != nil {
		var at *EntryError
		if errors.As(err, &at) && at.Index >= 0 && at.Index < len(tx.of) {
			e := tx.entries[tx.of[at.Index]]
			tx.lost = e.ifMatch == "" && e.ifNoneMatch == ""
			return place(err, e.n)
		}
		return err
	}
	if len(done) != len(tx.writes) {
		return fmt.Errorf("the transaction of %d writes was answered with %d", len(tx.writes), len(done))
	}
	for i, w := range done {
		if tx.writes[i].Interaction == fhir.Delete {
			w.Gone, w.Body = true, nil
		}
		tx.answers[tx.of[i]] = tx.c.writtenEntry(w)
	}
	return nil
}

// again reports whether all is to be prepared anew after a conflict. Whoever lost a race has seen
// another writer get on, so it takes many of them to use the tries up; a conflict with what the
// client itself demanded is compared again in preparing, and stays one as a rule.
func (tx *transaction) again(try int) bool {
	return tx.prepared && (try < retries || tx.lost && try < overtaken)
}

// prepare makes the writes in FHIR's order: DELETE, POST, PUT and PATCH.
func (tx *transaction) prepare(ctx context.Context) error {
	tx.targets, tx.found = map[string]string{}, map[string]string{}
	tx.where, tx.none, tx.current = map[int]Write{}, map[int]bool{}, false
	tx.writes, tx.of = nil, nil
	if err := tx.resolve(ctx); err != nil {
		return err
	}
	for _, e := range tx.entries {
		target := e.target.key.String()
		switch e.method {
		case http.MethodPost:
			w := tx.creates[e.n]
			target = w.Key.String()
			if w.IfNoneExist != "" {
				there, err := tx.existing(ctx, e, w)
				if err != nil {
					return place(err, e.n)
				}
				if there != nil {
					tx.none[e.n], target = true, there.Key.String()
				}
			}
		case http.MethodPut, http.MethodPatch:
			if e.conditional() {
				target = tx.where[e.n].Key.String()
			}
		default:
			continue
		}
		if e.fullURL != "" {
			tx.targets[e.fullURL] = target
		}
	}
	for _, methods := range [][]string{{http.MethodDelete}, {http.MethodPost}, {http.MethodPut, http.MethodPatch}} {
		for _, e := range tx.entries {
			if !slices.Contains(methods, e.method) || tx.none[e.n] {
				continue
			}
			w, err := tx.write(ctx, e)
			if err != nil {
				return place(err, e.n)
			}
			tx.writes, tx.of = append(tx.writes, w), append(tx.of, e.n)
		}
	}
	return nil
}

// upToDate makes sure, once in a preparation, that conditions see all that was acknowledged before.
func (tx *transaction) upToDate(ctx context.Context) error {
	tx.prepared = true
	if tx.current {
		return nil
	}
	if err := tx.s.backend.UpToDate(ctx); err != nil {
		return err
	}
	tx.current = true
	return nil
}

// resolve finds what the conditional entries are about. Only now is it known whether two entries
// would change one resource, by whatever name (FHIR R4 3.1.0.11.2).
func (tx *transaction) resolve(ctx context.Context) error {
	seen := map[fhir.Key]int{}
	for _, e := range tx.entries {
		key := e.target.key
		switch {
		case e.method == http.MethodGet, e.method == http.MethodHead, e.method == http.MethodPost:
			continue
		case e.conditional():
			w, err := tx.condition(ctx, e)
			if err != nil {
				return place(err, e.n)
			}
			if w == nil {
				continue
			}
			tx.where[e.n], key = *w, w.Key
		}
		if first, twice := seen[key]; twice {
			return place(fhir.Refuse(fhir.IssueInvariant, "", fmt.Sprintf("entry %d of the transaction has the same resource", first)), e.n)
		}
		seen[key] = e.n
	}
	return nil
}

// condition makes the write of a conditional entry, its links unresolved; nil for a delete that
// finds nothing.
func (tx *transaction) condition(ctx context.Context, e *entry) (*Write, error) {
	if err := tx.upToDate(ctx); err != nil {
		return nil, err
	}
	typ, place := e.target.key.Type, fmt.Sprintf("entry %d", e.n)
	if e.method == http.MethodPatch {
		w, err := tx.s.preparePatchWhere(ctx, tx.c, typ, e.target.query, e.patch, e.ifMatch, place)
		return &w, err
	}
	demanded, err := e.writePrecondition()
	if err != nil {
		return nil, err
	}
	if e.method == http.MethodPut {
		w, err := tx.s.prepareUpdateWhere(ctx, tx.c, typ, e.target.query, e.res, place, demanded)
		return &w, err
	}
	w, err := tx.s.prepareDeleteWhere(ctx, tx.c, typ, e.target.query, place, demanded)
	if err == nil && w == nil {
		tx.none[e.n] = true
		tx.answers[e.n] = tx.c.writtenEntry(Written{Interaction: fhir.Unchanged, Gone: true})
	}
	return w, err
}

// existing answers a conditional create whose resource is there already; nil if it is not.
func (tx *transaction) existing(ctx context.Context, e *entry, w Write) (*Resource, error) {
	if err := tx.upToDate(ctx); err != nil {
		return nil, err
	}
	found, err := tx.s.backend.Select(ctx, w.Key.Type, w.IfNoneExist)
	switch {
	case err != nil:
		return nil, err
	case len(found) > 1:
		return nil, fhir.Refuse(fhir.IssueDuplicate, "Bundle.request.ifNoneExist", "several resources match")
	case len(found) == 0:
		return nil, nil
	}
	r := found[0]
	tx.answers[e.n] = tx.c.writtenEntry(Written{Key: r.Key, Version: r.Version, Time: r.Time, Interaction: fhir.Unchanged, Body: r.Body})
	return &r, nil
}

// write makes the write of one entry, its links resolved.
func (tx *transaction) write(ctx context.Context, e *entry) (w Write, err error) {
	place := fmt.Sprintf("entry %d", e.n)
	switch resolved, conditional := tx.where[e.n]; {
	case conditional:
		w = resolved
	case e.method == http.MethodDelete:
		w, err = tx.c.prepareDelete(e.target.key, place, e.writePrecondition)
	case e.method == http.MethodPost:
		w = tx.creates[e.n]
	case e.method == http.MethodPut:
		w, err = tx.c.prepareUpdate(e.res, e.target.key.ID, place, e.writePrecondition)
	default:
		tx.prepared = true
		w, err = tx.s.preparePatch(ctx, tx.c, e.target.key, e.patch, e.ifMatch, place)
	}
	if err != nil {
		return w, err
	}
	if len(w.Body) > 0 {
		if w.Body, err = tx.link(ctx, e, w.Body); err != nil {
			return w, err
		}
	}
	if tx.c.mustOwn(w.Key.Type) {
		tx.prepared = true
		return tx.s.ownedWrite(ctx, tx.c, w)
	}
	return w, nil
}

// link resolves the links of one resource within the transaction.
func (tx *transaction) link(ctx context.Context, e *entry, body []byte) ([]byte, error) {
	t, err := parseStrict(body, len(body)+1, 0)
	if err != nil {
		return nil, err
	}
	l := linker{
		reference: func(v string) (string, bool, error) { return tx.reference(ctx, e, v) },
		link: func(v string) (string, bool) {
			target, ok := tx.targets[v]
			return target, ok && strings.HasPrefix(v, "urn:")
		},
	}
	out, err := l.rewrite(t)
	if err != nil {
		return nil, err
	}
	if len(out) > tx.s.limits.Resource {
		return nil, tooLong("resource", tx.s.limits.Resource)
	}
	return out, nil
}

// reference resolves a Reference.reference: the fullUrl of another entry, absolute or relative
// to the base of this entry's own (FHIR R4 2.36.4.1), or a search that finds one resource.
func (tx *transaction) reference(ctx context.Context, e *entry, v string) (string, bool, error) {
	if target, ok := tx.targets[v]; ok {
		return target, true, nil
	}
	if base, ok := baseOf(e.fullURL); ok {
		if target, ok := tx.targets[base+v]; ok {
			return target, target != v, nil
		}
	}
	if strings.HasPrefix(v, "urn:uuid:") && e.target.key.Type != "Bundle" && e.method != http.MethodPatch {
		// It names an entry by its fullUrl (FHIR R4 2.36.4.1), and stored it would name nothing.
		// In a Bundle that is stored it may be one of its own entries, and what a patch leaves
		// alone stood there before.
		return "", false, fhir.Refuse(fhir.IssueValue, "Bundle.resource",
			fmt.Sprintf("the reference %q is to an entry that the transaction does not create or change: no entry has this fullUrl", printable(v)))
	}
	typ, query, conditional := strings.Cut(v, "?")
	if !conditional || !tx.s.types[typ] {
		return "", false, nil
	}
	if target, ok := tx.found[v]; ok {
		return target, true, nil
	}
	target, err := tx.conditional(ctx, typ, query)
	if err == nil {
		tx.found[v] = target
	}
	return target, true, err
}

// baseOf is what stands before Type/id in an http fullUrl.
func baseOf(fullURL string) (string, bool) {
	if !strings.HasPrefix(fullURL, "http://") && !strings.HasPrefix(fullURL, "https://") {
		return "", false
	}
	i := strings.LastIndexByte(fullURL, '/')
	if i = strings.LastIndexByte(fullURL[:i], '/'); i < len("https://") {
		return "", false
	}
	return fullURL[:i+1], true
}

// conditional finds the one resource that a conditional reference means.
func (tx *transaction) conditional(ctx context.Context, typ, query string) (string, error) {
	q, err := url.ParseQuery(query)
	if err != nil || len(q) == 0 {
		return "", fhir.Refuse(fhir.IssueValue, "Bundle.resource", "a conditional reference has a query that cannot be read")
	}
	if err := tx.upToDate(ctx); err != nil {
		return "", err
	}
	found, err := tx.s.backend.Select(ctx, typ, query)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fhir.Refuse(fhir.IssueProcessing, "Bundle.resource", "a conditional reference to "+typ+" finds no resource")
	case len(found) > 1:
		return "", fhir.Refuse(fhir.IssueDuplicate, "Bundle.resource", "a conditional reference to "+typ+" finds several resources")
	}
	return found[0].Key.String(), nil
}

// lookups answers the GETs, which come last and see what was written. The changes stand
// whatever becomes of them.
func (tx *transaction) lookups(ctx context.Context) {
	for _, e := range tx.entries {
		if e.method != http.MethodGet && e.method != http.MethodHead {
			continue
		}
		done, err := tx.s.lookup(ctx, tx.c, e)
		if err != nil {
			done = tx.s.failedEntry(tx.c, place(err, e.n), false)
		}
		tx.answers[e.n] = done
	}
}
