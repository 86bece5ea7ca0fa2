package api

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Media types of bodies that are no FHIR resource.
const (
	mimeJSONPatch = "application/json-patch+json"
	mimeForm      = "application/x-www-form-urlencoded"
)

var (
	resourceTypes = append([]string{mimeFHIR, mimeJSON, "application/json+fhir", "text/json"}, xmlTypes...)
	objectTypes   = []string{mimeJSON, mimeFHIR, "text/json"}
	patchTypes    = []string{mimeJSONPatch}
	linesTypes    = []string{"application/fhir+ndjson", "application/x-ndjson", "application/ndjson", "application/jsonl"}
)

// bodyIs refuses a body of a media type that the route does not take. A body without one is
// taken for the usual one.
func (c *call) bodyIs(accepted []string) error {
	ct := c.r.Header.Get("Content-Type")
	if ct == "" {
		return nil
	}
	if ct == mimeFHIR || ct == mimeJSON {
		if slices.Contains(accepted, ct) {
			return nil // as it is usually written
		}
	}
	name, params, err := mime.ParseMediaType(ct)
	if err != nil || !slices.Contains(accepted, name) {
		what := accepted[0]
		if len(accepted) > 1 && accepted[1] == mimeJSON {
			what += " or " + mimeJSON
		}
		if slices.Contains(accepted, mimeFHIRXML) {
			what += ", or " + mimeFHIRXML
		}
		return unsupportedMedia(fmt.Sprintf("Content-Type %s is not supported here, send %s", printable(ct), what))
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") && !strings.EqualFold(cs, "us-ascii") {
		return unsupportedMedia("charset " + printable(cs) + " is not supported, send UTF-8")
	}
	c.sentXML = slices.Contains(xmlTypes, name)
	return nil
}

func unsupportedMedia(diagnostics string) error {
	return &refusal{status: http.StatusUnsupportedMediaType, err: fhir.Refuse(fhir.IssueNotSupported, "", diagnostics)}
}

// stream opens the request's body: decompressed, and given up when nothing arrives for
// idleTimeout. Bytes are counted by the caller, after decompression, so that a small body that
// unpacks to a huge one costs no more than the limit.
func (c *call) stream() (io.Reader, error) {
	c.body.c = c
	body := &c.body
	switch enc := strings.ToLower(strings.TrimSpace(c.r.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, unreadable(err)
		}
		return &unpacked{z: z, packed: body}, nil
	default:
		err := unsupportedMedia("Content-Encoding " + printable(enc) + " is not supported, send gzip or none")
		err.(*refusal).header = http.Header{"Accept-Encoding": {"gzip"}}
		return nil, err
	}
}

// A body that unpacks to more than unpackedFree bytes may be at most unpackedRatio times as long
// as it came. FHIR as JSON packs to a tenth or a thirtieth; only what is made for it packs
// further, and a stream of blank lines would keep us busy for ever at no cost to its sender.
const (
	unpackedFree  = 1 << 20
	unpackedRatio = 200
)

var errBomb = errors.New("the body unpacks to too much")

// unpacked reads a gzip body and stops one that is out of proportion.
type unpacked struct {
	z      io.Reader
	packed *rollingBody
	n      int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.z.Read(p)
	if u.n += int64(n); u.n > unpackedFree && u.n > unpackedRatio*u.packed.n {
		return 0, errBomb
	}
	return n, err
}

// rollingBody moves the connection's read deadline with every part of the body that arrives.
type rollingBody struct {
	c *call
	n int64 // bytes that came
}

func (b *rollingBody) Read(p []byte) (int, error) {
	ctl := http.NewResponseController(&b.c.w)
	// A writer without deadlines, as in some tests, reads without them.
	_ = ctl.SetReadDeadline(time.Now().Add(idleTimeout))
	n, err := b.c.r.Body.Read(p)
	b.n += int64(n)
	if err != nil {
		// A deadline left behind would end the request's context while it is being worked on.
		_ = ctl.SetReadDeadline(time.Time{})
	}
	return n, err
}

// growAhead is how much memory a body gets on its sender's word alone. A larger one gets more
// as it arrives, or many connections could ask for more than there is with a header each.
const growAhead = 64 << 10

// readBody reads the whole body, at most limit bytes.
func (c *call) readBody(limit int) ([]byte, error) {
	if c.r.ContentLength > int64(limit) {
		c.drain()
		return nil, tooLong("body", limit)
	}
	r, err := c.stream()
	if err != nil {
		return nil, err
	}
	// One byte more than is announced: the end can then be seen without growing.
	body := make([]byte, 0, min(max(c.r.ContentLength+1, bytes.MinRead), growAhead))
	for {
		n, err := r.Read(body[len(body):cap(body)])
		switch body = body[:len(body)+n]; {
		case len(body) > limit:
			c.drain()
			return nil, tooLong("body", limit)
		case err == io.EOF:
			return body, nil
		case errors.Is(err, errBomb):
			c.drain()
			return nil, unreadable(err)
		case err != nil:
			return nil, unreadable(err)
		}
		if len(body) == cap(body) {
			body = slices.Grow(body, bytes.MinRead)
		}
	}
}

// What of a refused body is read on, and for how long.
const (
	drainBytes = 16 << 20
	drainTime  = 5 * time.Second
)

// drain reads on in a body that is refused for its length. A client that writes all of it before
// it reads would otherwise see a broken connection in place of the answer. One that waits to be
// told to continue has sent nothing yet, and must not be told to.
func (c *call) drain() {
	if c.r.Header.Get("Expect") != "" {
		return
	}
	ctl := http.NewResponseController(&c.w)
	_ = ctl.SetReadDeadline(time.Now().Add(drainTime))
	// However it ends, the answer is the refusal.
	_, _ = io.CopyN(io.Discard, c.r.Body, drainBytes)
	_ = ctl.SetReadDeadline(time.Time{})
}

func tooLong(what string, limit int) error {
	return fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf("the %s is larger than the limit of %d bytes", what, limit))
}

// unreadable words why a body could not be read to its end.
func unreadable(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{status: http.StatusRequestTimeout, err: fhir.Refuse(fhir.IssueTransient, "",
			fmt.Sprintf("nothing of the body arrived for %v", idleTimeout)), header: http.Header{"Connection": {"close"}}}
	case errors.Is(err, errBomb):
		return fhir.Refuse(fhir.IssueTooLong, "",
			fmt.Sprintf("the gzip body unpacks to more than %d times its length; send it without Content-Encoding", unpackedRatio))
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return fhir.Refuse(fhir.IssueStructure, "", "the body is not what its Content-Encoding gzip says")
	}
	var max *http.MaxBytesError
	if errors.As(err, &max) {
		return tooLong("body", int(max.Limit))
	}
	return fhir.Refuse(fhir.IssueStructure, "", "the body could not be read to its end")
}

// resource is a body that was checked as far as we check resources.
type resource struct {
	key  fhir.Key // its ID is empty where the body has none
	body []byte
	tree *fhirjson.Tree
}

// parseResource checks what every resource must fulfil: strict JSON, a type of the release, an
// id and a meta of the right form. Everything else in it is the source's business.
func (s *server) parseResource(body []byte) (resource, error) {
	return s.parseInto(new(fhirjson.Tree), body)
}

// parseInto is parseResource into a tree that the caller has.
func (s *server) parseInto(t *fhirjson.Tree, body []byte) (resource, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return resource{}, fhir.Refuse(fhir.IssueStructure, "", "the body is empty; a resource is needed")
	}
	if err := t.Parse(body, fhirjson.Limits{Bytes: s.limits.Resource}); err != nil {
		return resource{}, notJSON(err, s.limits.Resource)
	}
	res := resource{body: body, tree: t}
	var err error
	if res.key, err = s.identify(t); err != nil {
		return resource{}, err
	}
	return res, nil
}

// parseStrict parses a body; depth 0 is the usual one.
func parseStrict(body []byte, limit, depth int) (*fhirjson.Tree, error) {
	t, err := fhirjson.Parse(body, fhirjson.Limits{Bytes: limit, Depth: depth})
	if err != nil {
		return nil, notJSON(err, limit)
	}
	return t, nil
}

func notJSON(err error, limit int) error {
	var syntax *fhirjson.SyntaxError
	if errors.As(err, &syntax) && syntax.TooLong {
		return tooLong("resource", limit)
	}
	return fhir.Refuse(fhir.IssueStructure, "", "not strict JSON: "+err.Error())
}

// identify reads type and id of a resource, and checks its meta.
func (s *server) identify(t *fhirjson.Tree) (fhir.Key, error) {
	root := t.Root()
	if t.Kind(root) != fhirjson.Object {
		return fhir.Key{}, fhir.Refuse(fhir.IssueStructure, "", "a resource is a JSON object")
	}
	typ := t.Get(root, "resourceType")
	switch {
	case typ == 0:
		return fhir.Key{}, fhir.Refuse(fhir.IssueRequired, "resourceType", "a resource needs its resourceType")
	case t.Kind(typ) != fhirjson.String || !s.types[t.Str(typ)]:
		return fhir.Key{}, fhir.Refuse(fhir.IssueValue, "resourceType", "the resourceType is no resource type of "+s.release)
	}
	key := fhir.Key{Type: t.Str(typ)}
	if id := t.Get(root, "id"); id != 0 {
		key.ID = fhir.ID(t.Str(id))
		if !key.ID.Valid() {
			return fhir.Key{}, fhir.Refuse(fhir.IssueValue, key.Type+".id", "an id is a string of 1 to 64 letters, digits, '-' and '.'")
		}
	}
	if meta := t.Get(root, "meta"); meta != 0 {
		if t.Kind(meta) != fhirjson.Object {
			return fhir.Key{}, fhir.Refuse(fhir.IssueValue, key.Type+".meta", "meta is an object")
		}
		for _, name := range []string{"versionId", "lastUpdated"} {
			if n := t.Get(meta, name); n != 0 && t.Kind(n) != fhirjson.String {
				return fhir.Key{}, fhir.Refuse(fhir.IssueValue, key.Type+".meta."+name, name+" is a string")
			}
		}
	}
	return key, nil
}

// instantForm is FHIR R4's regex of an instant (2.24.0.1). The parse that follows it rejects
// days and zones that there are not.
var instantForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$`)

// feedMeta checks the meta of a change feed's resource. It is kept as it is and sent on, so its
// version and time must be what readers of FHIR take them for.
func (r resource) feedMeta() error {
	meta := r.tree.Get(r.tree.Root(), "meta")
	if meta == 0 {
		return nil
	}
	if n := r.tree.Get(meta, "versionId"); n != 0 && !fhir.ID(r.tree.Str(n)).Valid() {
		return fhir.Refuse(fhir.IssueValue, r.key.Type+".meta.versionId", "a versionId is 1 to 64 letters, digits, '-' and '.'")
	}
	if n := r.tree.Get(meta, "lastUpdated"); n != 0 {
		_, err := time.Parse(time.RFC3339Nano, r.tree.Str(n))
		if err != nil || !instantForm.MatchString(r.tree.Str(n)) {
			return fhir.Refuse(fhir.IssueValue, r.key.Type+".meta.lastUpdated", "lastUpdated is an instant with seconds and time zone, such as 2027-01-31T12:00:00Z")
		}
	}
	return nil
}

// readResource reads the body of a request whose address names a type. It is called once a
// request; the tree is void when that is answered.
func (s *server) readResource(c *call, typ string) (resource, error) {
	body, err := s.readFHIR(c, s.limits.Resource)
	if err != nil {
		return resource{}, err
	}
	c.tree = fhirjson.Borrow()
	res, err := s.parseInto(c.tree, body)
	if err != nil {
		return resource{}, err
	}
	return res, sameType(res, typ)
}

// sameType refuses a resource sent to the address of another type (400, FHIR R4 3.1.0.4).
func sameType(res resource, typ string) error {
	if res.key.Type != typ {
		return badRequest(fmt.Sprintf("the resource is a %s, the address is that of %s", res.key.Type, typ))
	}
	return nil
}

// sameID refuses a resource whose id is not the one of its address (400, FHIR R4 3.1.0.4).
func sameID(res resource, id fhir.ID) error {
	switch res.key.ID {
	case id:
		return nil
	case "":
		return badRequest(fmt.Sprintf("the resource needs the id of its address, %s", id))
	}
	return badRequest(fmt.Sprintf("the resource's id %s is not that of its address, %s", res.key.ID, id))
}

// withID gives the resource another id.
func (r resource) withID(id fhir.ID) (resource, error) {
	body, err := r.tree.Splice(fhirjson.SpliceOptions{ID: string(id)})
	if err != nil {
		return resource{}, fmt.Errorf("give %s the id %s: %w", r.key.Type, id, err)
	}
	return resource{key: fhir.Key{Type: r.key.Type, ID: id}, body: body}, nil
}

// key reads type and id of the request's address.
func (s *server) key(c *call) (fhir.Key, error) {
	key := fhir.Key{Type: c.r.PathValue("Type"), ID: fhir.ID(c.r.PathValue("id"))}
	if key.Type == "" { // a route of one type
		key.Type = "Subscription"
	}
	return key, s.checkKey(key)
}

func (s *server) checkKey(key fhir.Key) error {
	if err := s.hasType(key.Type); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(string(key.ID), "$"), strings.HasPrefix(string(key.ID), "_"):
		return fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("%s is not known for %s", printable(string(key.ID)), key.Type))
	case !key.ID.Valid():
		return fhir.Refuse(fhir.IssueNotFound, "", "no resource has such an id: ids are 1 to 64 letters, digits, '-' and '.'")
	}
	return nil
}

// onlyQuery refuses query parameters that the route does not know: one that is ignored may be
// one that its sender relies on. _summary=false and the like ask for nothing.
func (c *call) onlyQuery(known ...string) error {
	if c.r.URL.RawQuery == "" {
		return nil
	}
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return badRequest("the query cannot be read: check its % escapes")
	}
	for name, values := range q {
		switch {
		case slices.Contains(known, name), name == "_format", name == "_pretty":
		case name == "_summary" && len(values) == 1 && values[0] == "false":
		default:
			return &refusal{status: http.StatusBadRequest,
				err: fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("parameter %q is not supported here", printable(name)))}
		}
	}
	return nil
}

// parseTag reads one entity tag, W/"v" or "v". A version that is no number of ours is 0.
func parseTag(s string) (record.Sequence, bool) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "W/")
	if len(s) < 3 || s[0] != '"' || s[len(s)-1] != '"' || strings.Contains(s[1:len(s)-1], `"`) {
		return 0, false
	}
	return parseVersion(s[1 : len(s)-1]), true
}

// parseVersion reads a version as ETag and _history show it; 0 if it is none of ours.
func parseVersion(s string) record.Sequence {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0
	}
	return record.Sequence(n)
}

// ifMatch reads the version that a client demands; nil if it demands none.
func ifMatch(header string) (*record.Sequence, error) {
	if header == "" {
		return nil, nil
	}
	v, ok := parseTag(header)
	if !ok {
		return nil, badRequest(`If-Match is not understood; write it as W/"version", one version and no *`)
	}
	if v == 0 {
		return nil, &refusal{status: http.StatusPreconditionFailed,
			err: fhir.Refuse(fhir.IssueConflict, "", "If-Match names a version that this server never gave; "+feedHint)}
	}
	return &v, nil
}

// writePrecondition reads the preconditions of a PUT or DELETE (RFC 9110 13.1). Those that are
// not evaluated are refused: a write that ignores its condition may overwrite what its client
// meant to protect.
func (c *call) writePrecondition(create bool) (*record.Sequence, error) {
	h := c.r.Header
	for _, name := range []string{"If-Unmodified-Since", "If-Modified-Since", "If-Range"} {
		if h.Get(name) != "" {
			return nil, badRequest(name + ` is not evaluated on writes; use If-Match: W/"version"`)
		}
	}
	match, none := h.Get("If-Match"), h.Get("If-None-Match")
	switch {
	case none == "":
		return ifMatch(match)
	case match != "":
		return nil, badRequest("give If-Match or If-None-Match, not both")
	case create && strings.TrimSpace(none) == "*":
		return new(record.Sequence), nil
	}
	return nil, badRequest("If-None-Match on a write is understood as * alone, on PUT: write only what does not exist")
}

// unconditional is the precondition of a write that cannot have one.
func unconditional() (*record.Sequence, error) { return nil, nil }

// feedHint is the way out for servers that send their own versions in If-Match, as HAPI does.
const feedHint = "a server that sends its own versions adds the header X-Carillon-Feed: true"

// noneMatch reports whether If-None-Match names the version (RFC 9110 13.1.2).
func noneMatch(headers []string, v record.Sequence) bool {
	for tag := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		if got, ok := parseTag(tag); strings.TrimSpace(tag) == "*" || ok && got == v {
			return true
		}
	}
	return false
}

// feed reports whether the caller runs a change feed: it keeps its own meta, and the versions
// that it names are its own.
func (c *call) feed() (bool, error) {
	switch v := c.r.Header.Get("X-Carillon-Feed"); strings.ToLower(v) {
	case "":
		return false, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, badRequest("X-Carillon-Feed is true or false")
	}
}

// newWrite begins a write with what the request's headers say about it.
func (c *call) newWrite(key fhir.Key) (Write, error) {
	feed, err := c.feed()
	w := Write{Key: key, Feed: feed, Owner: c.token.ID, Brief: c.brief}
	if t := c.r.Header.Get("Traceparent"); validTraceparent(t) {
		w.Trace = t
	}
	return w, err
}

// validTraceparent checks the form of W3C Trace Context, section 3.2, version 00. It goes on
// into requests to endpoints, so nothing else may.
func validTraceparent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 2, i == 35, i == 52:
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
		default:
			return false
		}
	}
	return s[:2] != "ff" && s[3:35] != strings.Repeat("0", 32) && s[36:52] != strings.Repeat("0", 16)
}

// messageID makes the client's Idempotency-Key, or X-Request-Id, the id of one write: bound to
// who sends it and to what is written, since many clients send one X-Request-Id with several
// different writes. Empty if the client gave neither; correlated if it is an X-Request-Id, by
// which its client does not promise that it belongs to one write.
func (c *call) messageID(what func() string, body []byte) (id string, correlated bool, err error) {
	key := c.r.Header.Get("Idempotency-Key")
	if len(key) > 255 {
		return "", false, badRequest("Idempotency-Key is longer than 255 characters")
	}
	if key == "" {
		if !c.given {
			return "", false, nil
		}
		key, correlated = c.id, true
	}
	sum := sha256.Sum256(body)
	h := sha256.New()
	for _, part := range []string{c.token.ID, key, what()} {
		fmt.Fprintf(h, "%d:%s", len(part), part) // lengths, so that parts cannot run together
	}
	h.Write(sum[:])
	return fmt.Sprintf("%x", h.Sum(nil)[:16]), correlated, nil
}

// newID makes the id of a created resource: of its message id where there is one, so that a
// create that is sent again means the same resource, else random (RFC 9562: versions 8 and 4).
func newID(messageID string) fhir.ID {
	var b [16]byte
	version := byte(0x40)
	if messageID == "" {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	} else {
		sum := sha256.Sum256([]byte("id:" + messageID))
		copy(b[:], sum[:])
		version = 0x80
	}
	b[6] = b[6]&0x0f | version
	b[8] = b[8]&0x3f | 0x80
	return fhir.ID(fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// readObject reads a body of the administration API. Unknown members are refused: a misspelt
// one may be what narrows an order.
func (s *server) readObject(c *call, v any) error {
	if err := c.bodyIs(objectTypes); err != nil {
		return err
	}
	body, err := c.readBody(s.limits.Resource)
	if err != nil {
		return err
	}
	return decodeObject(body, v)
}

// decodeObject decodes one strict JSON object into v.
func decodeObject(body []byte, v any) error {
	if _, err := parseStrict(body, len(body)+1, 0); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var typeErr *json.UnmarshalTypeError
		switch {
		case errors.As(err, &typeErr) && typeErr.Field == "":
			return badRequest("the body must be a JSON object")
		case errors.As(err, &typeErr):
			return badRequest(fmt.Sprintf("member %q must be %s", printable(typeErr.Field), typeErr.Type))
		case strings.Contains(err.Error(), "unknown field"):
			return badRequest("the body has a member that is not known here: " + printable(strings.TrimPrefix(err.Error(), "json: unknown field ")))
		}
		return badRequest("the body is not of the form that is asked for here")
	}
	return nil
}
