package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// bundle is a Bundle that we send.
type bundle struct {
	typ        string
	total      *int
	self, next string
	entries    []bundleEntry
}

type bundleEntry struct {
	fullURL  string
	resource []byte
	search   string // mode
	request  *entryRequest
	response *entryResponse
}

type entryRequest struct {
	Method string `json:"method"`
	URL    string `json:"url"`
}

type entryResponse struct {
	Status       string   `json:"status"`
	Location     string   `json:"location,omitempty"`
	ETag         string   `json:"etag,omitempty"`
	LastModified string   `json:"lastModified,omitempty"`
	Outcome      *outcome `json:"outcome,omitempty"`
}

// encode writes the Bundle. Resources pass as they are: an encoder would change their white
// space and the escapes of their strings.
func (b *bundle) encode() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `{"resourceType":"Bundle","type":%q`, b.typ)
	if b.total != nil {
		fmt.Fprintf(&out, `,"total":%d`, *b.total)
	}
	if b.self != "" {
		fmt.Fprintf(&out, `,"link":[{"relation":"self","url":%s}`, encode(b.self))
		if b.next != "" {
			fmt.Fprintf(&out, `,{"relation":"next","url":%s}`, encode(b.next))
		}
		out.WriteByte(']')
	}
	for i, e := range b.entries {
		if i == 0 {
			out.WriteString(`,"entry":[`)
		} else {
			out.WriteByte(',')
		}
		e.encode(&out)
	}
	if len(b.entries) > 0 {
		out.WriteByte(']')
	}
	out.WriteByte('}')
	return out.Bytes()
}

func (e *bundleEntry) encode(out *bytes.Buffer) {
	sep := byte('{')
	member := func(name string, value []byte) {
		out.WriteByte(sep)
		sep = ','
		fmt.Fprintf(out, `%q:`, name)
		out.Write(value)
	}
	if e.fullURL != "" {
		member("fullUrl", encode(e.fullURL))
	}
	if len(e.resource) > 0 {
		member("resource", e.resource)
	}
	if e.search != "" {
		member("search", encode(map[string]string{"mode": e.search}))
	}
	if e.request != nil {
		member("request", encode(e.request))
	}
	if e.response != nil {
		member("response", encode(e.response))
	}
	if sep == '{' {
		out.WriteByte('{')
	}
	out.WriteByte('}')
}

// entry is one request of a Bundle that we were sent.
type entry struct {
	n           int
	fullURL     string
	method      string
	target      target
	ifMatch     string
	ifNoneMatch string
	ifNoneExist string
	res         resource // of a POST or PUT
	patch       []byte   // of a PATCH
}

// precondition is call.precondition for an entry.
func (e *entry) precondition() bool {
	return e.ifMatch != "" || e.ifNoneMatch != "" || e.ifNoneExist != ""
}

// target is what an entry's request.url names.
type target struct {
	key     fhir.Key // without ID: the type
	history bool
	vid     string
	query   url.Values
}

// bundleDepth is what a Bundle adds to the depth of the resources in it.
const bundleDepth = fhirjson.DefaultDepth + 3

// bundle is POST /fhir: a batch or a transaction.
func (s *server) bundle(c *call) error {
	if err := c.onlyQuery(); err != nil {
		return err
	}
	body, err := s.readFHIR(c, s.limits.Bundle)
	if err != nil {
		return err
	}
	t, err := parseStrict(body, s.limits.Bundle, bundleDepth)
	if err != nil {
		return err
	}
	c.brief = c.prefer != preferRepresentation // an entry's answer is short unless it is asked for
	root := t.Root()
	if !t.Is(t.Get(root, "resourceType"), "Bundle") {
		return badRequest("a Bundle is processed here; a resource goes to the address of its type, such as /fhir/Patient")
	}
	list := t.Get(root, "entry")
	if list != 0 && t.Kind(list) != fhirjson.Array {
		return fhir.Refuse(fhir.IssueValue, "Bundle.entry", "entry is an array")
	}
	switch typ := t.Str(t.Get(root, "type")); typ {
	case "batch":
		return s.batch(c, t, list)
	case "transaction":
		return s.transaction(c, t, list)
	default:
		return fhir.Refuse(fhir.IssueValue, "Bundle.type", "a Bundle that is processed is a batch or a transaction")
	}
}

// parseEntry reads and checks one entry.
func (s *server) parseEntry(c *call, t *fhirjson.Tree, node fhirjson.Node, n int) (*entry, error) {
	req := t.Get(node, "request")
	if t.Kind(req) != fhirjson.Object {
		return nil, fhir.Refuse(fhir.IssueRequired, "Bundle.request", "an entry of a batch or transaction needs its request")
	}
	e := &entry{
		n: n, fullURL: t.Str(t.Get(node, "fullUrl")), method: t.Str(t.Get(req, "method")),
		ifMatch: t.Str(t.Get(req, "ifMatch")), ifNoneMatch: t.Str(t.Get(req, "ifNoneMatch")), ifNoneExist: t.Str(t.Get(req, "ifNoneExist")),
	}
	// One that is there and cannot be read must not be taken for none.
	for name, value := range map[string]string{"ifMatch": e.ifMatch, "ifNoneMatch": e.ifNoneMatch, "ifNoneExist": e.ifNoneExist} {
		if t.Get(req, name) != 0 && strings.TrimSpace(value) == "" {
			return nil, fhir.Refuse(fhir.IssueValue, "Bundle.request."+name, name+" is a string that is not empty; leave it out where there is no condition")
		}
	}
	var err error
	if e.target, err = s.parseTarget(c, t.Str(t.Get(req, "url"))); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	if e.method != http.MethodPost && e.method != http.MethodPut && e.method != http.MethodPatch {
		return e, nil
	}
	body := t.Get(node, "resource")
	if body == 0 {
		return nil, fhir.Refuse(fhir.IssueRequired, "Bundle.resource", "the entry's request needs a resource")
	}
	if e.method == http.MethodPatch {
		if _, err := e.writePrecondition(); err != nil {
			return nil, err
		}
		e.patch, err = patchOf(t, body)
		return e, err
	}
	// Copied, because a version that is kept must not keep the whole Bundle.
	if e.res, err = s.parseResource(bytes.Clone(t.Raw(body))); err != nil {
		return nil, err
	}
	if err := sameType(e.res, e.target.key.Type); err != nil {
		return nil, err
	}
	if e.method == http.MethodPut && !e.conditional() {
		return e, sameID(e.res, e.target.key.ID)
	}
	return e, nil
}

// conditional reports whether an entry names what it changes by a search.
func (e *entry) conditional() bool {
	switch e.method {
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		return e.target.key.ID == ""
	}
	return false
}

// check refuses combinations of method and address that mean nothing here.
func (e *entry) check() error {
	one := e.target.key.ID != ""
	switch e.method {
	case http.MethodGet, http.MethodHead:
		return nil
	case http.MethodPost:
		if one || e.target.history || len(e.target.query) > 0 {
			return fhir.Refuse(fhir.IssueNotSupported, "Bundle.request.url", "a POST in a Bundle creates: its url is a type")
		}
		return nil
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		if one == (len(e.target.query) > 0) || e.target.history {
			return fhir.Refuse(fhir.IssueValue, "Bundle.request.url", "the url of this method is of the form Type/id or Type?query")
		}
		return nil
	case "":
		return fhir.Refuse(fhir.IssueRequired, "Bundle.request.method", "the request needs its method")
	}
	return fhir.Refuse(fhir.IssueValue, "Bundle.request.method", "the method is none of GET, HEAD, POST, PUT, PATCH and DELETE")
}

// parseTarget reads a request.url: relative to the base, or absolute with our base before it.
func (s *server) parseTarget(c *call, raw string) (target, error) {
	rel := strings.TrimPrefix(strings.TrimPrefix(raw, c.base), "/")
	path, query, _ := strings.Cut(rel, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return target{}, fhir.Refuse(fhir.IssueValue, "Bundle.request.url", "the query cannot be read: check its % escapes")
	}
	part := strings.Split(path, "/")
	t := target{key: fhir.Key{Type: part[0]}, query: q}
	switch {
	case raw == "":
		return target{}, fhir.Refuse(fhir.IssueRequired, "Bundle.request.url", "the request needs its url")
	case len(part) > 4, len(part) > 2 && part[2] != "_history", len(part) > 1 && strings.ContainsAny(part[1][:min(1, len(part[1]))], "$_"):
		return target{}, fhir.Refuse(fhir.IssueNotSupported, "Bundle.request.url", fmt.Sprintf("the url %q is not supported in a Bundle", printable(path)))
	}
	if err := s.hasType(t.key.Type); err != nil {
		return target{}, err
	}
	if len(part) > 1 {
		t.key.ID = fhir.ID(part[1])
		if err := s.checkKey(t.key); err != nil {
			return target{}, err
		}
	}
	t.history = len(part) > 2
	if len(part) == 4 {
		t.vid = part[3]
	}
	return t, nil
}

// patchOf takes the JSON Patch out of the Binary that carries it (FHIR R4 3.1.0.7).
func patchOf(t *fhirjson.Tree, n fhirjson.Node) ([]byte, error) {
	if !t.Is(t.Get(n, "resourceType"), "Binary") || !t.Is(t.Get(n, "contentType"), mimeJSONPatch) {
		return nil, fhir.Refuse(fhir.IssueNotSupported, "Bundle.resource", "a PATCH in a Bundle carries a Binary of contentType "+mimeJSONPatch)
	}
	patch, err := base64.StdEncoding.DecodeString(t.Str(t.Get(n, "data")))
	if err != nil {
		return nil, fhir.Refuse(fhir.IssueValue, "Bundle.resource.data", "the Binary's data is not base64")
	}
	return patch, nil
}

// placed is an error with the entry that it is about.
type placed struct {
	fe  *fhir.Error
	err error // as it was, for its status and its wait
}

func (p *placed) Error() string   { return p.fe.Error() }
func (p *placed) Unwrap() []error { return []error{p.fe, p.err} }

// place says in a refusal which entry it is about. Other errors stay.
func place(err error, n int) error {
	fe := fhir.AsError(err)
	if fe == nil {
		return err
	}
	at := fmt.Sprintf("Bundle.entry[%d]", n)
	issues := slices.Clone(fe.Issues)
	for i := range issues {
		first, rest, found := strings.Cut(issues[i].Expression, ".")
		switch {
		case issues[i].Expression == "":
			issues[i].Expression = at
		case first == "Bundle" && found: // of the entry itself
			issues[i].Expression = at + "." + rest
		case found:
			issues[i].Expression = at + ".resource." + rest
		default: // resourceType
			issues[i].Expression = at + ".resource." + first
		}
	}
	return &placed{fe: &fhir.Error{Issues: issues}, err: err}
}

// The work of one request that goes on side by side: enough for the log's group commit, and
// few enough that a large request does not hold up the small ones.
const (
	sideBySide      = 256
	sideBySideBytes = 64 << 20
)

// batch processes every entry for itself: one that fails leaves the others alone
// (FHIR R4 3.1.0.11.1). Entries of one resource keep their order.
func (s *server) batch(c *call, t *fhirjson.Tree, list fhirjson.Node) error {
	answers := make([]bundleEntry, t.Len(list))
	p := newPool(sideBySide, sideBySideBytes)
	n := 0
	for node := range t.Children(list) {
		answer, at := &answers[n], n
		n++
		e, err := s.parseEntry(c, t, node, at)
		if err != nil {
			*answer = s.failedEntry(c, place(err, at), false)
			continue
		}
		order := ""
		switch {
		case e.target.key.ID != "":
			order = e.target.key.String()
		case e.conditional(): // of one condition, so of one resource
			order = e.target.key.Type + queryOf(e.target.query)
		}
		p.do(order, len(e.res.body)+len(e.patch), func() {
			defer s.recoverEntry(c, answer)
			done, err := s.batchEntry(c.r.Context(), c, e)
			if err != nil {
				done = s.failedEntry(c, place(err, at), e.precondition())
			}
			*answer = done
		})
	}
	p.wait()
	b := bundle{typ: "batch-response", entries: answers}
	c.sendBundle(&b)
	return nil
}

// recoverEntry keeps an entry whose handling panicked from ending the process: it runs on a
// goroutine of its own, where no other recover sees it.
func (s *server) recoverEntry(c *call, answer *bundleEntry) {
	if p := recover(); p != nil {
		*answer = s.failedEntry(c, panicked(p), false)
	}
}

// panicked makes an error of a panic. Its value may hold anything and is left out.
func panicked(p any) error { return fmt.Errorf("panic (%T)", p) }

// writePrecondition reads the preconditions of a PUT or DELETE entry, as the headers of a
// single request are read.
func (e *entry) writePrecondition() (*record.Sequence, error) {
	switch {
	case e.ifNoneMatch == "":
		return ifMatch(e.ifMatch)
	case e.ifMatch != "":
		return nil, badRequest("give ifMatch or ifNoneMatch, not both")
	case e.ifNoneMatch == "*" && e.method == http.MethodPut:
		return new(record.Sequence), nil
	}
	return nil, badRequest("ifNoneMatch on a write is understood as * alone, on PUT: write only what does not exist")
}

// failedEntry words the failure of an entry.
func (s *server) failedEntry(c *call, err error, precondition bool) bundleEntry {
	j := judge(c.r.Context(), err, precondition)
	if j.fault {
		s.log.Error("bundle entry failed", "id", c.id, "route", c.pattern, "err", err)
	}
	s.refused(j.issues[0].Type)
	o := j.outcome(c.id)
	return bundleEntry{response: &entryResponse{Status: statusText(j.status), Outcome: &o}}
}

func statusText(status int) string { return fmt.Sprintf("%d %s", status, http.StatusText(status)) }

// batchEntry does what one entry asks for.
func (s *server) batchEntry(ctx context.Context, c *call, e *entry) (bundleEntry, error) {
	if e.conditional() {
		done, err := s.conditionalEntry(ctx, c, e)
		return c.writtenEntry(done), err
	}
	place := fmt.Sprintf("entry %d", e.n)
	var w Write
	var err error
	switch e.method {
	case http.MethodGet, http.MethodHead:
		return s.lookup(ctx, c, e)
	case http.MethodPatch:
		done, err := s.patchResource(ctx, c, e.target.key, e.patch, e.ifMatch, place)
		return c.writtenEntry(done), err
	case http.MethodPost:
		if w, err = c.prepareCreate(e.res, place, e.ifNoneExist); err != nil {
			return bundleEntry{}, err
		}
		done, err := s.finishCreate(ctx, c, w)
		return c.writtenEntry(done), err
	case http.MethodPut:
		w, err = c.prepareUpdate(e.res, e.target.key.ID, place, e.writePrecondition)
	default:
		w, err = c.prepareDelete(e.target.key, place, e.writePrecondition)
	}
	if err != nil {
		return bundleEntry{}, err
	}
	done, err := s.write(ctx, c, w)
	if w.Interaction == fhir.Delete {
		done.Gone, done.Body = true, nil
	}
	return c.writtenEntry(done), err
}

// conditionalEntry does what a conditional entry of a batch asks for.
func (s *server) conditionalEntry(ctx context.Context, c *call, e *entry) (Written, error) {
	typ, place := e.target.key.Type, fmt.Sprintf("entry %d", e.n)
	switch e.method {
	case http.MethodPut:
		return s.updateWhere(ctx, c, typ, e.target.query, e.res, place, e.writePrecondition)
	case http.MethodPatch:
		return s.patchWhere(ctx, c, typ, e.target.query, e.patch, e.ifMatch, place)
	}
	return s.deleteWhere(ctx, c, typ, e.target.query, place, e.writePrecondition)
}

// writtenEntry words a write. A Bundle's answer is short unless its client prefers otherwise.
func (c *call) writtenEntry(w Written) bundleEntry {
	status := http.StatusOK
	switch {
	case w.Interaction == fhir.Create:
		status = http.StatusCreated
	case w.Gone:
		status = http.StatusNoContent
	}
	e := bundleEntry{response: &entryResponse{Status: statusText(status)}}
	if w.Version != 0 {
		e.response.ETag, e.response.LastModified = etag(w.Version), instant(w.Time)
		if status != http.StatusNoContent {
			e.response.Location = c.location(w.Key, w.Version)
		}
	}
	if c.prefer == preferRepresentation && len(w.Body) > 0 {
		e.fullURL, e.resource = c.base+"/"+w.Key.String(), w.Body
	}
	if c.prefer == preferOutcome || len(w.Warnings) > 0 {
		o := newOutcome(c.id, outcomeOf(w)...)
		e.response.Outcome = &o
	}
	return e
}

// lookup is a GET or HEAD in a Bundle: read, vread, history or search.
func (s *server) lookup(ctx context.Context, c *call, e *entry) (bundleEntry, error) {
	if err := c.permit(read); err != nil {
		return bundleEntry{}, err
	}
	t := e.target
	var b *bundle
	var r Resource
	var err error
	switch {
	case t.key.ID == "":
		b, err = s.searchBundle(ctx, c, t.key.Type, t.query)
	case t.history && t.vid == "":
		b, err = s.historyBundle(ctx, c, t.key, t.query)
	case t.history:
		r, err = s.versionNamed(ctx, t.key, t.vid)
	default:
		r, err = s.backend.Read(ctx, t.key)
	}
	switch {
	case err != nil:
		return bundleEntry{}, err
	case b != nil:
		out := bundleEntry{response: &entryResponse{Status: "200 OK"}}
		if e.method == http.MethodGet {
			out.resource = b.encode()
		}
		return out, nil
	case r.Deleted:
		return bundleEntry{}, gone(r)
	}
	out := bundleEntry{
		fullURL:  c.base + "/" + r.Key.String(),
		response: &entryResponse{Status: "200 OK", ETag: etag(r.Version), LastModified: instant(r.Time)},
	}
	switch {
	case e.ifNoneMatch != "" && noneMatch([]string{e.ifNoneMatch}, r.Version):
		out.response.Status = "304 Not Modified"
	case e.method == http.MethodGet:
		out.resource = r.Body
	}
	return out, nil
}

// transaction makes all entries' changes or none (FHIR R4 3.1.0.11.2).
func (s *server) transaction(c *call, t *fhirjson.Tree, list fhirjson.Node) error {
	if n := t.Len(list); n > s.limits.BundleEntries {
		return fhir.Refuse(fhir.IssueTooLong, "Bundle.entry",
			fmt.Sprintf("a transaction has at most %d entries, this one has %d; send several, or a batch", s.limits.BundleEntries, n))
	}
	entries, err := s.parseEntries(c, t, list)
	if err != nil {
		return err
	}
	tx, err := s.newTransaction(c, entries)
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	for try := 0; ; try++ {
		err = tx.commit(ctx)
		if err == nil {
			break
		}
		if isIssue(err, fhir.IssueConflict) && tx.again(try) && ctx.Err() == nil {
			continue
		}
		return tx.conflictStatus(err)
	}
	tx.lookups(ctx)
	b := bundle{typ: "transaction-response", entries: tx.answers}
	c.sendBundle(&b)
	return nil
}

// parseEntries reads all entries and refuses all that is wrong with them at once.
func (s *server) parseEntries(c *call, t *fhirjson.Tree, list fhirjson.Node) ([]*entry, error) {
	var entries []*entry
	var errs []error
	n := 0
	for node := range t.Children(list) {
		e, err := s.parseEntry(c, t, node, n)
		if err == nil {
			err = c.permitEntry(e)
		}
		if err != nil {
			errs = append(errs, place(err, n))
		}
		entries = append(entries, e)
		n++
	}
	if errs == nil {
		return entries, nil
	}
	// The first decides the status, all are named. A fault of ours is no refusal and goes alone.
	all := &fhir.Error{}
	for _, err := range errs {
		fe := fhir.AsError(err)
		if fe == nil {
			return nil, err
		}
		all.Issues = append(all.Issues, fe.Issues...)
	}
	return nil, &placed{fe: all, err: errs[0]}
}

func (c *call) permitEntry(e *entry) error {
	if e.method == http.MethodGet || e.method == http.MethodHead {
		return c.permit(read)
	}
	return c.permitWrite(e.target.key.Type)
}

// conflictStatus gives a conflict the status of a failed precondition if one of the entries
// had a precondition.
func (tx *transaction) conflictStatus(err error) error {
	fe := fhir.AsError(err)
	if isIssue(err, fhir.IssueConflict) && slices.ContainsFunc(tx.entries, (*entry).precondition) {
		var own *refusal
		if !errors.As(err, &own) {
			return &refusal{status: http.StatusPreconditionFailed, err: fe}
		}
	}
	return err
}
