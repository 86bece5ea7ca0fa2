package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// retries is how often a change that was prepared from a version is prepared anew when another
// writer was faster, before its client hears of it.
const retries = 8

// write makes one change for whoever may make it.
func (s *server) write(ctx context.Context, c *call, w Write) (Written, error) {
	if err := c.permitWrite(w.Key.Type); err != nil {
		return Written{}, err
	}
	if err := unwritable(w.Key); err != nil {
		return Written{}, err
	}
	if !c.mustOwn(w.Key.Type) {
		return s.backend.Write(ctx, w)
	}
	for try := 0; ; try++ {
		owned, err := s.ownedWrite(ctx, c, w)
		if err != nil {
			return Written{}, err
		}
		done, err := s.backend.Write(ctx, owned)
		if isIssue(err, fhir.IssueConflict) && w.IfMatch == nil && !w.MustCreate && try < retries {
			continue
		}
		return done, err
	}
}

// ownedWrite binds a write to the version on which its owner was checked.
func (s *server) ownedWrite(ctx context.Context, c *call, w Write) (Write, error) {
	current, err := s.own(ctx, c, w.Key)
	if err == nil && w.IfMatch == nil {
		w.IfMatch = &current
	}
	return w, err
}

// create is POST /fhir/{Type}.
func (s *server) create(c *call) error {
	typ := c.r.PathValue("Type")
	if err := s.hasType(typ); err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	res, err := s.readResource(c, typ)
	if err != nil {
		return err
	}
	ifNoneExist, err := c.ifNoneExist()
	if err != nil {
		return err
	}
	w, err := c.prepareCreate(res, "", ifNoneExist)
	if err != nil {
		return err
	}
	done, err := s.finishCreate(c.r.Context(), c, w)
	if err != nil {
		return err
	}
	return c.written(done)
}

// prepareCreate makes the write of a new resource. Its own id is replaced: the server gives
// ids (FHIR R4 3.1.0.8). place tells entries of one request apart.
func (c *call) prepareCreate(res resource, place, ifNoneExist string) (Write, error) {
	mid, correlated, err := c.messageID(func() string { return "POST " + res.key.Type + " " + place }, res.body)
	if err != nil {
		return Write{}, err
	}
	w, err := c.newWrite(res.key)
	if err != nil {
		return Write{}, err
	}
	if w.Feed {
		if err := res.feedMeta(); err != nil {
			return Write{}, err
		}
	}
	res, err = res.withID(newID(mid))
	if err != nil {
		return Write{}, err
	}
	w.Key, w.Interaction, w.Body, w.MessageID, w.Correlated = res.key, fhir.Create, res.body, mid, correlated
	w.IfNoneExist, err = conditionalQuery(ifNoneExist, res.key.Type)
	return w, err
}

// finishCreate writes a new resource. One with a message id has an id that follows from it:
// if that exists, the same create was done before, and its resource is the answer.
func (s *server) finishCreate(ctx context.Context, c *call, w Write) (Written, error) {
	if w.MessageID != "" {
		w.IfMatch = new(record.Sequence)
	}
	done, err := s.write(ctx, c, w)
	if w.MessageID == "" || !isIssue(err, fhir.IssueConflict) {
		return done, err
	}
	r, rerr := s.backend.Read(ctx, w.Key)
	if rerr != nil || r.Deleted {
		return done, err
	}
	return Written{Key: r.Key, Version: r.Version, Time: r.Time, Interaction: fhir.Unchanged, Body: r.Body}, nil
}

// ifNoneExist reads the header of a conditional create. An empty one is refused: its client
// meant a condition, and without one would get a resource too many.
func (c *call) ifNoneExist() (string, error) {
	v := c.r.Header.Values("If-None-Exist")
	switch {
	case len(v) == 0:
		return "", nil
	case len(v) > 1 || strings.TrimSpace(v[0]) == "":
		return "", errNoneExist()
	}
	return v[0], nil
}

func errNoneExist() error {
	return badRequest("If-None-Exist is one search query such as identifier=system|value")
}

// conditionalQuery checks the query of an If-None-Exist, with or without the type before it.
func conditionalQuery(q, typ string) (string, error) {
	if q == "" {
		return "", nil
	}
	q = strings.TrimPrefix(strings.TrimPrefix(q, typ), "?")
	values, err := url.ParseQuery(q)
	if err != nil || len(values) == 0 {
		return "", errNoneExist()
	}
	return q, nil
}

// update is PUT /fhir/{Type}/{id}.
func (s *server) update(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	res, err := s.readResource(c, key.Type)
	if err != nil {
		return err
	}
	w, err := c.prepareUpdate(res, key.ID, "", func() (*record.Sequence, error) { return c.writePrecondition(true) })
	if err != nil {
		return err
	}
	done, err := s.write(c.r.Context(), c, w)
	if err != nil {
		return err
	}
	return c.written(done)
}

// prepareUpdate makes the write of a PUT. A feed's If-Match is no precondition: HAPI sends the
// very version that the body brings, which is a number of its own.
func (c *call) prepareUpdate(res resource, id fhir.ID, place string, match func() (*record.Sequence, error)) (Write, error) {
	if err := sameID(res, id); err != nil {
		return Write{}, err
	}
	w, err := c.newWrite(res.key)
	if err != nil {
		return Write{}, err
	}
	w.Body = res.body
	if w.Feed {
		err = res.feedMeta()
	} else {
		w.IfMatch, err = match()
	}
	if err != nil {
		return Write{}, err
	}
	w.MessageID, w.Correlated, err = c.messageID(func() string { return "PUT " + res.key.String() + " " + place }, res.body)
	return w, err
}

// delete is DELETE /fhir/{Type}/{id}.
func (s *server) delete(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	w, err := c.prepareDelete(key, "", func() (*record.Sequence, error) { return c.writePrecondition(false) })
	if err != nil {
		return err
	}
	done, err := s.write(c.r.Context(), c, w)
	if err != nil {
		return err
	}
	done.Gone, done.Body = true, nil
	return c.written(done)
}

func (c *call) prepareDelete(key fhir.Key, place string, match func() (*record.Sequence, error)) (Write, error) {
	w, err := c.newWrite(key)
	if err != nil {
		return Write{}, err
	}
	w.Interaction = fhir.Delete
	if !w.Feed {
		if w.IfMatch, err = match(); err != nil {
			return Write{}, err
		}
	}
	w.MessageID, w.Correlated, err = c.messageID(func() string { return "DELETE " + key.String() + " " + place }, nil)
	return w, err
}

// read is GET /fhir/{Type}/{id}.
func (s *server) read(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	r, err := s.backend.Read(c.r.Context(), key)
	if err != nil {
		return err
	}
	return c.show(r)
}

// vread is GET /fhir/{Type}/{id}/_history/{vid}.
func (s *server) vread(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	r, err := s.versionNamed(c.r.Context(), key, c.r.PathValue("vid"))
	if err != nil {
		return err
	}
	return c.show(r)
}

// versionNamed reads a version by its name in an address.
func (s *server) versionNamed(ctx context.Context, key fhir.Key, vid string) (Resource, error) {
	v := parseVersion(vid)
	if v == 0 {
		return Resource{}, fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("%s has no version %q", key, printable(vid)))
	}
	return s.backend.VRead(ctx, key, v)
}

// show answers with a version of a resource: 410 if it is a deleted one, 304 if the client has
// it already.
func (c *call) show(r Resource) error {
	if r.Deleted {
		return gone(r)
	}
	c.describe(r.Version, r.Time)
	if noneMatch(c.r.Header.Values("If-None-Match"), r.Version) {
		c.send(http.StatusNotModified, c.mime, nil)
		return nil
	}
	c.send(http.StatusOK, c.mime, r.Body)
	return nil
}

func gone(r Resource) error {
	return fhir.Refuse(fhir.IssueDeleted, "", fmt.Sprintf("%s was deleted with version %d", r.Key, r.Version))
}

// History is paged by version: _before is ours, and appears in our own links only.
const (
	historyPage    = 50
	historyPageMax = 1000
)

// history is GET /fhir/{Type}/{id}/_history.
func (s *server) history(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery("_count", "_before"); err != nil {
		return err
	}
	b, err := s.historyBundle(c.r.Context(), c, key, c.r.URL.Query())
	if err != nil {
		return err
	}
	c.sendBundle(b)
	return nil
}

func (s *server) historyBundle(ctx context.Context, c *call, key fhir.Key, q url.Values) (*bundle, error) {
	count := historyPage
	if v := q.Get("_count"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return nil, badRequest("_count is a number from 1")
		}
		count = min(n, historyPageMax)
	}
	before := record.Sequence(0)
	if v := q.Get("_before"); v != "" {
		if before = parseVersion(v); before == 0 {
			return nil, badRequest("_before is a version")
		}
	}
	versions, more, err := s.backend.History(ctx, key, count, before)
	if err != nil {
		return nil, err
	}
	here := fmt.Sprintf("%s/%s/_history", c.base, key)
	self := url.Values{"_count": {strconv.Itoa(count)}}
	keepFormat(self, q)
	b := &bundle{typ: "history", self: here + "?" + self.Encode()}
	for _, r := range versions {
		b.entries = append(b.entries, c.historyEntry(r))
	}
	if more && len(versions) > 0 {
		self.Set("_before", strconv.FormatUint(uint64(versions[len(versions)-1].Version), 10))
		b.next = here + "?" + self.Encode()
	}
	return b, nil
}

// historyEntry words one version: the request that made it, and how that was answered
// (FHIR R4 3.1.0.9).
func (c *call) historyEntry(r Resource) bundleEntry {
	e := bundleEntry{
		fullURL:  c.base + "/" + r.Key.String(),
		resource: r.Body,
		request:  &entryRequest{Method: http.MethodPut, URL: r.Key.String()},
		response: &entryResponse{Status: "200 OK", ETag: etag(r.Version), LastModified: instant(r.Time)},
	}
	switch {
	case r.Deleted:
		e.resource = nil
		e.request.Method, e.response.Status = http.MethodDelete, "204 No Content"
	case r.Interaction == fhir.Create:
		e.request.Method, e.request.URL = http.MethodPost, r.Key.Type
		e.response.Status = "201 Created"
	}
	return e
}

// feedEvent is POST /fhir/$feed: a change as Medplum's webhook sends it. The resource is the
// body; a delete has an empty object and its key in a header.
func (s *server) feedEvent(c *call) error {
	asked := fhir.Interaction(c.r.Header.Get("X-Medplum-Interaction"))
	switch asked {
	case "", fhir.Create, fhir.Update, fhir.Delete:
	default:
		return badRequest("X-Medplum-Interaction is create, update or delete")
	}
	body, err := s.readFHIR(c, s.limits.Resource)
	if err != nil {
		return err
	}
	c.brief = true
	w, err := s.prepareFeed(c, asked, body)
	if err != nil {
		return err
	}
	done, err := s.write(c.r.Context(), c, w)
	if err != nil {
		return err
	}
	c.warn(done.Warnings)
	return c.sendOutcome(http.StatusOK, outcomeOf(done)...)
}

func (s *server) prepareFeed(c *call, asked fhir.Interaction, body []byte) (w Write, err error) {
	var key fhir.Key
	if deleted := c.r.Header.Get("X-Medplum-Deleted-Resource"); deleted != "" {
		if asked != "" && asked != fhir.Delete {
			return w, badRequest("X-Medplum-Deleted-Resource contradicts X-Medplum-Interaction")
		}
		asked, body = fhir.Delete, nil
		if key, err = fhir.ParseKey(deleted); err != nil {
			return w, badRequest("X-Medplum-Deleted-Resource is of the form Type/id")
		}
		if err := s.checkKey(key); err != nil {
			return w, err
		}
	} else {
		res, err := s.parseResource(body)
		if err != nil {
			return w, err
		}
		if key = res.key; key.ID == "" {
			return w, fhir.Refuse(fhir.IssueRequired, key.Type+".id", "a change of a resource needs its id")
		}
		if err := res.feedMeta(); err != nil {
			return w, err
		}
	}
	if w, err = c.newWrite(key); err != nil {
		return w, err
	}
	w.Feed, w.Interaction = true, asked
	if asked != fhir.Delete {
		w.Body = body
	}
	w.MessageID, w.Correlated, err = c.messageID(func() string { return "$feed " + string(asked) + " " + key.String() }, body)
	return w, err
}

// readOptional reads a body that may be absent.
func (s *server) readOptional(c *call) ([]byte, error) {
	if c.r.Body == nil || c.r.Body == http.NoBody {
		return nil, nil
	}
	body, err := s.readFHIR(c, s.limits.Resource)
	return bytes.TrimSpace(body), err
}
