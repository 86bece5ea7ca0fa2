package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirxml "github.com/carillon-fhir/carillon/match/fhir/xml"
)

// Everything within is JSON: resources are stored and sent on as their JSON. XML is made at the
// door, of an answer that is ready and from a body that was read.

// Media types of XML.
const (
	mimeFHIRXML = "application/fhir+xml"
	mimeXML     = "application/xml"
	mimeTextXML = "text/xml"
)

// xmlTypes are the names under which XML is sent to us.
var xmlTypes = []string{mimeFHIRXML, mimeXML, mimeTextXML, "application/xml+fhir"}

// fhirType is the media type that answers a wish for one of FHIR's formats; empty if it is a wish
// for something else. A generic name is answered with that name (FHIR R4 http.html#mime-type).
func fhirType(name string) string {
	if t := jsonType(name); t != "" {
		return t
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ";")
	switch name = strings.TrimSpace(name); name {
	case "xml", mimeFHIRXML, "application/xml+fhir":
		return mimeFHIRXML
	case mimeXML, mimeTextXML:
		return name
	}
	return ""
}

// isXML reports whether an answer of a media type that fhirType gave is XML.
func isXML(mime string) bool { return mime == mimeFHIRXML || mime == mimeXML || mime == mimeTextXML }

// askedFormat reads _format, in which a plus sign means a space.
func askedFormat(value string) string { return fhirType(strings.ReplaceAll(value, " ", "+")) }

// keepFormat lets a link to another page ask for XML, if this page was asked for as XML by _format.
func keepFormat(link, asked url.Values) {
	if f := asked.Get("_format"); isXML(askedFormat(f)) {
		link.Set("_format", f)
	}
}

// readFHIR reads a body that is a resource, as JSON whichever format it came in. The limit holds
// for both.
func (s *server) readFHIR(c *call, limit int) ([]byte, error) {
	if err := c.bodyIs(resourceTypes); err != nil {
		return nil, err
	}
	body, err := c.readBody(limit)
	switch text := bytes.TrimLeft(body, " \t\r\n"); {
	case err != nil, len(text) == 0:
		return body, err
	case !c.sentXML && text[0] == '<':
		return nil, fhir.Refuse(fhir.IssueStructure, "", "not strict JSON: the body begins as XML does; send that with Content-Type "+mimeFHIRXML)
	case !c.sentXML:
		return body, nil
	}
	if body, err = fhirxml.Unmarshal(c.version, body); err == nil && len(body) > limit {
		err = tooLong("body as JSON", limit)
	}
	return body, err
}

// inXML writes an answer as XML.
func (c *call) inXML(body []byte) ([]byte, error) {
	if c.query("_pretty") == "true" {
		return fhirxml.MarshalIndent(c.version, body)
	}
	return fhirxml.Marshal(c.version, body)
}

// inFormat writes an answer in the format that was asked for. A resource is stored as its source
// has it, so there may be one that XML has no place for. A read of it is refused; a write was
// done, and its answer says that instead of showing the resource.
func (c *call) inFormat(status int, mime string, body []byte) (int, []byte) {
	if !isXML(mime) {
		if c.query("_pretty") == "true" {
			var b bytes.Buffer
			if json.Indent(&b, body, "", "  ") == nil {
				body = b.Bytes()
			}
		}
		return status, body
	}
	xml, err := c.inXML(body)
	if err == nil {
		return status, xml
	}
	severity := severityWarning
	if c.r.Method == http.MethodGet || c.r.Method == http.MethodHead || strings.HasSuffix(c.pattern, "/_search") {
		severity, status = severityError, http.StatusNotAcceptable
	}
	xml, err = c.inXML(encode(c.noXML(severity, err)))
	if err != nil {
		panic("api: write an OperationOutcome as XML: " + err.Error())
	}
	return status, xml
}

// noXML words why something cannot be shown as XML.
func (c *call) noXML(severity string, err error) outcome {
	fe := fhir.AsError(err)
	if fe == nil {
		fe = fhir.Refuse(fhir.IssueException, "", "the answer cannot be written as XML")
	}
	issues := issuesOf(severity, fe.Issues)
	for i := range issues {
		issues[i].Diagnostics += "; ask for " + mimeFHIR + " to see the resource"
	}
	return newOutcome(c.id, issues...)
}

// sendBundle answers with a Bundle. In XML an entry whose resource cannot be written is replaced by
// one that says so, since it must not hide the others.
func (c *call) sendBundle(b *bundle) {
	body := b.encode()
	if isXML(c.mime) {
		if _, err := c.inXML(body); err != nil {
			b.withoutUnwritable(c)
			body = b.encode()
		}
	}
	c.send(http.StatusOK, c.mime, body)
}

func (b *bundle) withoutUnwritable(c *call) {
	for i := range b.entries {
		e := &b.entries[i]
		if len(e.resource) == 0 {
			continue
		}
		_, err := fhirxml.Marshal(c.version, e.resource)
		if err == nil {
			continue
		}
		o := c.noXML(severityWarning, err)
		switch {
		case e.search != "":
			for k := range o.Issue {
				o.Issue[k].Diagnostics = strings.TrimPrefix(e.fullURL, c.base+"/") + " " + o.Issue[k].Diagnostics
			}
			*e = bundleEntry{resource: encode(o), search: "outcome"}
		default:
			e.resource = nil
			if e.response == nil {
				e.response = &entryResponse{Status: statusText(http.StatusOK)}
			}
			e.response.Outcome = &o
		}
	}
}
