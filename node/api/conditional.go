package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// A conditional interaction names its resource by a search: PUT, PATCH and DELETE of Type?query
// (FHIR R4 http.html, #cond-update, #patch, #cdelete). It is made safe by demands of the write: on the
// version that was found, so that a resource which no longer matches is not changed, and, where
// none was found and one is made, on the condition itself (Write.IfNoneExist), so that of two that
// make one at a time only one does. Where somebody was faster it is all done again.

// meant reads which resources a request's address means: their type, and the condition.
func (s *server) meant(c *call) (typ string, condition url.Values, err error) {
	typ = c.r.PathValue("Type")
	if err := s.hasType(typ); err != nil {
		return "", nil, err
	}
	condition, err = c.conditionOf()
	return typ, condition, err
}

// conditionOf reads the condition of a request's address.
func (c *call) conditionOf() (url.Values, error) {
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query cannot be read: check its % escapes")
	}
	q.Del("_format")
	q.Del("_pretty")
	if len(q) == 0 {
		return nil, &refusal{
			status: http.StatusMethodNotAllowed,
			err: fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf(
				"%s is of one resource: name it as Type/id, or by a condition that finds it, as Type?identifier=system|value; POST creates", c.r.Method)),
			header: http.Header{"Allow": {"GET, HEAD, POST"}},
		}
	}
	return q, nil
}

// selected is the one resource that a condition means; nil if there is none. The caller has made
// sure that the backend is up to date.
func (s *server) selected(ctx context.Context, typ string, condition url.Values) (*Resource, error) {
	found, err := s.backend.Select(ctx, typ, condition.Encode())
	switch {
	case err != nil:
		return nil, err
	case len(found) > 1:
		return nil, fhir.Refuse(fhir.IssueDuplicate, "", fmt.Sprintf("several resources of type %s match the condition; it must find at most one", typ))
	case len(found) == 0:
		return nil, nil
	}
	return &found[0], nil
}

// overtaken is how often a conditional interaction is done anew. Each time another one was made in
// its place, so it takes as many writers of one resource at a time to use them up.
const overtaken = 64

// again does a conditional interaction, on a state that holds all that was acknowledged, and anew
// where its write was overtaken, unless its client named the version that it is about.
func (s *server) again(ctx context.Context, once bool, do func() (Written, error)) (Written, error) {
	for try := 0; ; try++ {
		if err := s.backend.UpToDate(ctx); err != nil {
			return Written{}, err
		}
		done, err := do()
		if isIssue(err, fhir.IssueConflict) && !once && try < overtaken && ctx.Err() == nil {
			continue
		}
		return done, err
	}
}

// demanding binds a write to the version that its condition found.
func demanding(demanded *record.Sequence, found *Resource) (*record.Sequence, error) {
	switch {
	case demanded == nil:
		return &found.Version, nil
	case *demanded == 0:
		return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("%s matches the condition, in version %d", found.Key, found.Version))
	case *demanded != found.Version:
		return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
			"If-Match names version %d, and %s, which the condition finds, has version %d", *demanded, found.Key, found.Version))
	}
	return demanded, nil
}

// noFeed refuses a condition of a change feed, which knows the ids of its resources.
func noFeed(w Write) error {
	if w.Feed {
		return badRequest("a change feed names its resources as Type/id: X-Carillon-Feed and a condition contradict each other")
	}
	return nil
}

// conditionalUpdate is PUT /fhir/{Type}?query.
func (s *server) conditionalUpdate(c *call) error {
	typ, condition, err := s.meant(c)
	if err != nil {
		return err
	}
	res, err := s.readResource(c, typ)
	if err != nil {
		return err
	}
	done, err := s.updateWhere(c.r.Context(), c, typ, condition, res, "", func() (*record.Sequence, error) { return c.writePrecondition(true) })
	if err != nil {
		return err
	}
	return c.written(done)
}

func (s *server) updateWhere(ctx context.Context, c *call, typ string, condition url.Values, res resource, place string, match func() (*record.Sequence, error)) (Written, error) {
	if err := c.permitWrite(typ); err != nil {
		return Written{}, err
	}
	demanded, err := match()
	if err != nil {
		return Written{}, err
	}
	return s.again(ctx, demanded != nil, func() (Written, error) {
		w, err := s.prepareUpdateWhere(ctx, c, typ, condition, res, place, demanded)
		if err != nil {
			return Written{}, err
		}
		return s.write(ctx, c, w)
	})
}

// prepareUpdateWhere makes the write of a conditional update: of the resource that is found, or of
// a new one, under the id that its client gave or one of ours.
func (s *server) prepareUpdateWhere(ctx context.Context, c *call, typ string, condition url.Values, res resource, place string, demanded *record.Sequence) (Write, error) {
	mid, correlated, err := c.messageID(func() string { return "PUT " + typ + "?" + condition.Encode() + " " + place }, res.body)
	if err != nil {
		return Write{}, err
	}
	w, err := c.newWrite(res.key)
	if err == nil {
		err = noFeed(w)
	}
	if err != nil {
		return Write{}, err
	}
	found, err := s.selected(ctx, typ, condition)
	if err != nil {
		return Write{}, err
	}
	var id fhir.ID
	switch {
	case found == nil && demanded != nil && *demanded != 0:
		return Write{}, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("If-Match names version %d, and no resource matches the condition", *demanded))
	case found == nil:
		w.IfNoneExist, w.MustCreate = condition.Encode(), true
		id = newID(mid)
		if res.key.ID != "" {
			if err := s.free(ctx, res.key); err != nil {
				return Write{}, err
			}
			id, w.IfMatch = res.key.ID, new(record.Sequence)
		}
	case res.key.ID != "" && res.key.ID != found.Key.ID:
		return Write{}, badRequest(fmt.Sprintf("the resource's id %s is not that of the resource which the condition finds", res.key.ID))
	default:
		id = found.Key.ID
		if w.IfMatch, err = demanding(demanded, found); err != nil {
			return Write{}, err
		}
	}
	if res.key.ID == "" {
		if res, err = res.withID(id); err != nil {
			return Write{}, err
		}
	}
	w.Key, w.Body, w.MessageID, w.Correlated = res.key, res.body, mid, correlated
	return w, nil
}

// free refuses the id of a resource that is there and does not match the condition (409, as R5
// has it in http.html#cond-update): to overwrite it is not what its client asks for.
func (s *server) free(ctx context.Context, key fhir.Key) error {
	r, err := s.backend.Read(ctx, key)
	switch {
	case isIssue(err, fhir.IssueNotFound), err == nil && r.Deleted:
		return nil
	case err != nil:
		return err
	}
	return &refusal{status: http.StatusConflict, err: fhir.Refuse(fhir.IssueInvariant, "", fmt.Sprintf(
		"no resource matches the condition, and %s, which would be created, exists already", key))}
}

// conditionalDelete is DELETE /fhir/{Type}?query: of one resource at most.
func (s *server) conditionalDelete(c *call) error {
	typ, condition, err := s.meant(c)
	if err != nil {
		return err
	}
	done, err := s.deleteWhere(c.r.Context(), c, typ, condition, "", func() (*record.Sequence, error) { return c.writePrecondition(false) })
	if err != nil {
		return err
	}
	return c.written(done)
}

func (s *server) deleteWhere(ctx context.Context, c *call, typ string, condition url.Values, place string, match func() (*record.Sequence, error)) (Written, error) {
	if err := c.permitWrite(typ); err != nil {
		return Written{}, err
	}
	demanded, err := match()
	if err != nil {
		return Written{}, err
	}
	return s.again(ctx, demanded != nil, func() (Written, error) {
		w, err := s.prepareDeleteWhere(ctx, c, typ, condition, place, demanded)
		if err != nil {
			return Written{}, err
		}
		if w == nil {
			return Written{Key: fhir.Key{Type: typ}, Interaction: fhir.Unchanged, Gone: true}, nil
		}
		done, err := s.write(ctx, c, *w)
		done.Gone, done.Body = true, nil
		return done, err
	})
}

// prepareDeleteWhere makes the write of a conditional delete; nil if nothing matches.
func (s *server) prepareDeleteWhere(ctx context.Context, c *call, typ string, condition url.Values, place string, demanded *record.Sequence) (*Write, error) {
	found, err := s.selected(ctx, typ, condition)
	if err != nil {
		return nil, err
	}
	if found == nil {
		if demanded != nil {
			return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("If-Match names version %d, and no resource matches the condition", *demanded))
		}
		return nil, nil
	}
	w, err := c.prepareDelete(found.Key, place, func() (*record.Sequence, error) { return demanding(demanded, found) })
	if err == nil {
		err = noFeed(w)
	}
	return &w, err
}

// conditionalPatch is PATCH /fhir/{Type}?query.
func (s *server) conditionalPatch(c *call) error {
	typ, condition, err := s.meant(c)
	if err != nil {
		return err
	}
	if err := c.bodyIs(patchTypes); err != nil {
		return err
	}
	if _, err := c.writePrecondition(false); err != nil {
		return err
	}
	body, err := c.readBody(s.limits.Resource)
	if err != nil {
		return err
	}
	done, err := s.patchWhere(c.r.Context(), c, typ, condition, body, c.r.Header.Get("If-Match"), "")
	if err != nil {
		return err
	}
	return c.written(done)
}

func (s *server) patchWhere(ctx context.Context, c *call, typ string, condition url.Values, patch []byte, match, place string) (Written, error) {
	if err := c.permitWrite(typ); err != nil {
		return Written{}, err
	}
	return s.again(ctx, match != "", func() (Written, error) {
		w, err := s.preparePatchWhere(ctx, c, typ, condition, patch, match, place)
		if err != nil {
			return Written{}, err
		}
		return s.write(ctx, c, w)
	})
}

// preparePatchWhere makes the write of a conditional patch; it needs a resource to patch.
func (s *server) preparePatchWhere(ctx context.Context, c *call, typ string, condition url.Values, patch []byte, match, place string) (Write, error) {
	found, err := s.selected(ctx, typ, condition)
	switch {
	case err != nil:
		return Write{}, err
	case found == nil:
		return Write{}, &refusal{status: http.StatusNotFound, err: fhir.Refuse(fhir.IssueNotFound, "", "no resource matches the condition, so there is nothing to patch")}
	}
	demanded, err := ifMatch(match)
	if err != nil {
		return Write{}, err
	}
	if _, err := demanding(demanded, found); err != nil {
		return Write{}, err
	}
	w, err := s.preparePatch(ctx, c, found.Key, patch, etag(found.Version), place)
	if err == nil {
		err = noFeed(w)
	}
	return w, err
}
