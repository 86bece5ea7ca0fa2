package api

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Media types of answers.
const (
	mimeFHIR = "application/fhir+json"
	mimeJSON = "application/json"
)

// face is the kind of answer that a route gives.
type face int

const (
	faceFHIR  face = iota // a resource
	faceJSON              // an object of the administration API
	facePlain             // health and metrics: whatever the client accepts
)

// statusWriter remembers the status for the log, and leads the routes to their call.
type statusWriter struct {
	http.ResponseWriter
	c      *call
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// negotiate chooses the media type of the answer before anything is done, so that no write
// happens whose answer its client cannot read. _format goes before Accept (FHIR R4 3.1.0.1.11).
func (c *call) negotiate(f face) error {
	switch f {
	case facePlain:
		c.mime = mimeJSON
		return nil
	case faceJSON:
		c.mime = mimeJSON
		if acceptable(c.r.Header.Values("Accept"), jsonType) == "" {
			return &refusal{status: http.StatusNotAcceptable,
				err: fhir.Refuse(fhir.IssueNotSupported, "", "answers of the administration API are JSON: ask for application/json")}
		}
		return nil
	}
	c.chosen = true
	if f := c.query("_format"); f != "" {
		c.mime = askedFormat(f)
	} else {
		c.mime = acceptable(c.r.Header.Values("Accept"), fhirType)
	}
	if c.mime == "" {
		c.mime = mimeFHIR // of the refusal
		return notAcceptable()
	}
	return nil
}

func notAcceptable() error {
	return &refusal{status: http.StatusNotAcceptable,
		err: fhir.Refuse(fhir.IssueNotSupported, "", "answers are JSON or XML: ask for application/fhir+json or application/fhir+xml")}
}

// query gives a parameter of the address. Most requests have none, and need no parsing.
func (c *call) query(name string) string {
	if c.r.URL.RawQuery == "" {
		return ""
	}
	return c.r.URL.Query().Get(name)
}

// acceptable chooses from Accept headers the media type with the highest weight; empty if none is
// ours. ours gives the media type that answers a wish, empty for none. Of equals it is the first,
// but JSON before XML: many clients name both, and JSON is what we have.
func acceptable(accept []string, ours func(name string) string) string {
	list := strings.Join(accept, ",")
	if strings.TrimSpace(list) == "" {
		return mimeFHIR
	}
	best, weight, wild := "", 0.0, false
	choose := func(name, t string, q float64) {
		any := strings.Contains(name, "*")
		if q > weight || q == weight && q > 0 && (isXML(best) && !isXML(t) && !any || wild && isXML(t)) {
			best, weight, wild = t, q, any
		}
	}
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if t := ours(part); t != "" && !strings.ContainsRune(part, ';') { // weight 1, the usual case
			choose(part, t, 1)
			continue
		}
		name, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		if t := ours(name); t != "" {
			choose(name, t, q)
		}
	}
	return best
}

// jsonType is the media type that answers a wish for JSON; empty if it is a wish for another.
func jsonType(name string) string {
	name, _, _ = strings.Cut(strings.ToLower(name), ";")
	switch strings.TrimSpace(name) {
	case "json", mimeFHIR, "application/json+fhir", "*/*", "application/*":
		return mimeFHIR
	case mimeJSON, "text/json":
		return mimeJSON
	}
	return ""
}

// header sets a header of the answer. The name is in canonical form, so that nothing has to bring
// it there, and the usual values stand side by side in the call rather than each on its own.
func (c *call) header(name, value string) {
	if c.headers == len(c.values) {
		c.w.Header()[name] = []string{value}
		return
	}
	one := c.values[c.headers : c.headers+1 : c.headers+1]
	c.headers++
	one[0] = value
	c.w.Header()[name] = one
}

// gzipFrom is the size from which an answer is worth compressing.
const gzipFrom = 1 << 10

// send gives the answer, whose body is JSON, in the format of contentType. It is called once a
// request.
func (c *call) send(status int, contentType string, body []byte) {
	if tell := c.answering; tell != nil {
		c.answering = nil
		tell(status)
	}
	if len(body) > 0 {
		status, body = c.inFormat(status, contentType, body)
		c.header("Content-Type", contentType+"; charset=utf-8")
		c.w.Header().Add("Vary", "Accept, Accept-Encoding")
		if len(body) >= gzipFrom && acceptsGzip(c.r.Header.Values("Accept-Encoding")) {
			body = compress(body)
			c.header("Content-Encoding", "gzip")
		}
	}
	if status != http.StatusNoContent && status != http.StatusNotModified {
		c.header("Content-Length", strconv.Itoa(len(body)))
	}
	// A client may take long over the whole of a large answer, but not over each part of it.
	ctl := http.NewResponseController(&c.w)
	_ = ctl.SetWriteDeadline(time.Now().Add(idleTimeout))
	c.w.WriteHeader(status)
	if c.r.Method == http.MethodHead {
		return
	}
	for len(body) > 0 {
		part := body[:min(len(body), 256<<10)]
		if _, err := c.w.Write(part); err != nil {
			return // the client has gone; there is nobody left to tell
		}
		if body = body[len(part):]; len(body) > 0 {
			_ = ctl.SetWriteDeadline(time.Now().Add(idleTimeout))
		}
	}
}

func acceptsGzip(headers []string) bool {
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		name, params, _ := strings.Cut(part, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "gzip" && name != "*" {
			continue
		}
		q, found := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		return !found || err == nil && weight > 0
	}
	return false
}

func compress(body []byte) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err == nil {
		_, err = z.Write(body)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic("api: compress into memory: " + err.Error())
	}
	return b.Bytes()
}

// sendJSON answers with one of our own objects.
func (c *call) sendJSON(status int, v any) error {
	c.send(status, c.mime, encode(v))
	return nil
}

// sendOutcome answers with an OperationOutcome that is no error.
func (c *call) sendOutcome(status int, issues ...outcomeIssue) error {
	return c.sendJSON(status, newOutcome(c.id, issues...))
}

// etag is the entity tag of a version: weak, since the same version may be written in several
// ways (FHIR R4 3.1.0.1.3).
func etag(v record.Sequence) string { return `W/"` + strconv.FormatUint(uint64(v), 10) + `"` }

// instant writes a time as FHIR's instant.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// location is the absolute URL of a version.
func (c *call) location(key fhir.Key, v record.Sequence) string {
	return c.base + "/" + key.Type + "/" + string(key.ID) + "/_history/" + strconv.FormatUint(uint64(v), 10)
}

// describe sets the headers that tell which version the answer is about.
func (c *call) describe(v record.Sequence, t time.Time) {
	c.header("Etag", etag(v))
	c.header("Last-Modified", t.UTC().Format(http.TimeFormat))
}

// warn shows warnings also to those who get no OperationOutcome (RFC 9110 leaves 299 to us).
func (c *call) warn(warnings []fhir.Issue) {
	for _, w := range warnings {
		c.w.Header().Add("Warning", "299 carillon "+strconv.QuoteToASCII(w.Diagnostics))
	}
}

// written answers a write: 201 where a resource came to be, 200 where it was there, 204 after
// a delete (FHIR R4 3.1.0.4 to 3.1.0.8).
func (c *call) written(w Written) error {
	status := http.StatusOK
	switch {
	case w.Interaction == fhir.Create:
		status = http.StatusCreated
	case w.Gone:
		status = http.StatusNoContent
	}
	if w.Version != 0 {
		c.describe(w.Version, w.Time)
		if status != http.StatusNoContent {
			c.header("Location", c.location(w.Key, w.Version))
		}
	}
	c.warn(w.Warnings)
	switch c.prefer {
	case preferOutcome:
		if status == http.StatusNoContent {
			status = http.StatusOK
		}
		return c.sendOutcome(status, outcomeOf(w)...)
	case preferMinimal:
		c.send(status, c.mime, nil)
	default:
		c.send(status, c.mime, w.Body)
	}
	return nil
}

// outcomeOf words what became of a write.
func outcomeOf(w Written) []outcomeIssue {
	done := map[fhir.Interaction]string{
		fhir.Create: "created", fhir.Update: "updated", fhir.Delete: "deleted", fhir.Unchanged: "unchanged",
	}[w.Interaction]
	text := fmt.Sprintf("%s %s", w.Key, done)
	if w.Version != 0 {
		text = fmt.Sprintf("%s, version %d", text, w.Version)
	}
	return append([]outcomeIssue{{Severity: severityInformation, Code: informational, Diagnostics: text}},
		issuesOf(severityWarning, w.Warnings)...)
}

// preference is the client's wish for the body of an answer to a write.
type preference string

const (
	preferNothing        preference = ""
	preferMinimal        preference = "minimal"
	preferRepresentation preference = "representation"
	preferOutcome        preference = "OperationOutcome"
)

// preferred reads Prefer headers (RFC 7240). Preferences that we do not know are only that.
func preferred(headers []string) preference {
	if len(headers) == 0 {
		return preferNothing
	}
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		for token := range strings.SplitSeq(part, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(token), "=")
			if !strings.EqualFold(name, "return") {
				continue
			}
			value = strings.Trim(value, `"`)
			for _, p := range []preference{preferMinimal, preferRepresentation, preferOutcome} {
				if strings.EqualFold(value, string(p)) {
					return p
				}
			}
		}
	}
	return preferNothing
}
