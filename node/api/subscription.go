package api

import (
	"net/http"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// validate is POST /fhir/Subscription/$validate: what would be said if it were written. A
// validation that was done is 200, whatever it found (FHIR R4, operation Resource-validate).
func (s *server) validate(c *call) error {
	if err := c.onlyQuery("from"); err != nil {
		return err
	}
	from := fhir.Origin(c.query("from"))
	switch from {
	case fhir.OriginUnknown, fhir.OriginHAPI, fhir.OriginMedplum:
	default:
		return badRequest("from is hapi or medplum: the product that the Subscription was written for")
	}
	body, err := s.readFHIR(c, s.limits.Resource)
	if err != nil {
		return err
	}
	if body, err = s.unwrap(body, "resource"); err != nil {
		return err
	}
	res, err := s.parseResource(body)
	if err != nil {
		return err
	}
	if err := sameType(res, "Subscription"); err != nil {
		return err
	}
	warnings, err := s.backend.ValidateSubscription(c.r.Context(), body)
	fe := fhir.AsError(err)
	switch {
	case err != nil && (fe == nil || statusOf(fe.Issues[0].Type, false) != http.StatusUnprocessableEntity):
		return err // it could not be found out
	case err != nil:
		return c.sendOutcome(http.StatusOK, append(issuesOf(severityError, fe.Issues), issuesOf(severityWarning, warnings)...)...)
	}
	ok := outcomeIssue{Severity: severityInformation, Code: informational, Diagnostics: "the Subscription would be accepted"}
	issues := append([]outcomeIssue{ok}, issuesOf(severityWarning, warnings)...)
	if s.notes != nil {
		issues = append(issues, issuesOf(severityInformation, s.notes(body, from))...)
	}
	return c.sendOutcome(http.StatusOK, issues...)
}

// unwrap takes a resource out of the Parameters that an operation may be called with; another
// body is returned as it is.
func (s *server) unwrap(body []byte, name string) ([]byte, error) {
	t, err := parseStrict(body, s.limits.Resource, bundleDepth)
	if err != nil {
		return nil, err
	}
	if !t.Is(t.Get(t.Root(), "resourceType"), "Parameters") {
		return body, nil
	}
	if n := t.Get(parameter(t, name), "resource"); n != 0 {
		return t.Raw(n), nil
	}
	return nil, fhir.Refuse(fhir.IssueRequired, "Parameters.parameter", "the parameter "+name+" with a resource is missing")
}

// parameter finds a part of a Parameters resource by name.
func parameter(t *fhirjson.Tree, name string) fhirjson.Node {
	for p := range t.Children(t.Get(t.Root(), "parameter")) {
		if t.Is(t.Get(p, "name"), name) {
			return p
		}
	}
	return 0
}

// explain is GET or POST /fhir/Subscription/{id}/$explain: of a stored resource by
// ?resource=Type/id[@version], or of the one in the body.
func (s *server) explain(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery("resource"); err != nil {
		return err
	}
	body, err := s.readOptional(c)
	if err != nil {
		return err
	}
	q := ExplainQuery{Subscription: key.ID}
	ref := c.r.URL.Query().Get("resource")
	switch {
	case ref == "" && len(body) == 0:
		return badRequest("name the resource: ?resource=Type/id or Type/id@version, or send it as the body of a POST")
	case ref != "" && len(body) > 0:
		return badRequest("name the resource or send it, not both")
	case ref != "":
		q.Key, q.Version, err = s.parseReference(ref)
	default:
		q.Body, err = s.explainBody(body)
	}
	if err != nil {
		return err
	}
	return s.explained(c, q)
}

func (s *server) explained(c *call, q ExplainQuery) error {
	x, err := s.backend.Explain(c.r.Context(), q)
	if err != nil {
		return err
	}
	return c.sendJSON(http.StatusOK, x.parameters())
}

// explainUnsaved is POST /fhir/Subscription/$explain with Parameters: subscription, a resource
// that is not stored, and what it is asked about: resource, or reference to a stored one.
func (s *server) explainUnsaved(c *call) error {
	if err := c.onlyQuery(); err != nil {
		return err
	}
	body, err := s.readFHIR(c, s.limits.Resource)
	if err != nil {
		return err
	}
	t, err := parseStrict(body, s.limits.Resource, bundleDepth)
	if err != nil {
		return err
	}
	if !t.Is(t.Get(t.Root(), "resourceType"), "Parameters") {
		return badRequest("the body is a Parameters resource with the parameters subscription, and resource or reference")
	}
	q, err := s.unsavedQuery(t)
	if err != nil {
		return err
	}
	return s.explained(c, q)
}

func (s *server) unsavedQuery(t *fhirjson.Tree) (q ExplainQuery, err error) {
	var ref string
	for p := range t.Children(t.Get(t.Root(), "parameter")) {
		raw := t.Raw(t.Get(p, "resource"))
		switch name := t.Str(t.Get(p, "name")); name {
		case "subscription":
			q.Unsaved, err = s.explainSubscription(raw)
		case "resource":
			if q.Body = raw; raw != nil {
				_, err = s.parseResource(raw)
			}
		case "reference":
			if ref = t.Str(t.Get(t.Get(p, "valueReference"), "reference")); ref == "" {
				ref = t.Str(t.Get(p, "valueString"))
			}
			q.Key, q.Version, err = s.parseReference(strings.Replace(ref, "/_history/", "@", 1))
		default:
			err = badRequest("parameter " + printable(name) + " is not known here; they are subscription, resource and reference")
		}
		if err != nil {
			return q, err
		}
	}
	switch {
	case q.Unsaved == nil:
		return q, fhir.Refuse(fhir.IssueRequired, "Parameters.parameter", "the parameter subscription with a resource is missing")
	case (q.Body == nil) == (ref == ""):
		return q, fhir.Refuse(fhir.IssueRequired, "Parameters.parameter", "give what the Subscription is asked about: resource with a resource, or reference with the reference of a stored one")
	}
	return q, nil
}

// explainSubscription checks that a body is a Subscription.
func (s *server) explainSubscription(body []byte) ([]byte, error) {
	if len(body) == 0 {
		return nil, fhir.Refuse(fhir.IssueRequired, "Parameters.parameter", "the parameter subscription with a resource is missing")
	}
	res, err := s.parseResource(body)
	if err != nil {
		return nil, err
	}
	return body, sameType(res, "Subscription")
}

func (s *server) explainBody(body []byte) ([]byte, error) {
	body, err := s.unwrap(body, "resource")
	if err != nil {
		return nil, err
	}
	_, err = s.parseResource(body)
	return body, err
}

// parameters is an Explanation as a FHIR resource.
func (x Explanation) parameters() map[string]any {
	type part = map[string]any
	boolean := func(name string, v bool) part { return part{"name": name, "valueBoolean": v} }
	text := func(parts []part, name, v string) []part {
		if v == "" {
			return parts // FHIR has no empty strings
		}
		return append(parts, part{"name": name, "valueString": v})
	}
	parts := []part{boolean("matches", x.Matches)}
	if x.Subscription != "" {
		parts = text(parts, "subscription", "Subscription/"+string(x.Subscription))
	}
	parts = text(parts, "status", x.Status)
	resource := x.Resource
	if resource != "" && x.Version != 0 {
		resource += "/_history/" + uintText(uint64(x.Version))
	}
	parts = text(parts, "resource", resource)
	parts = text(parts, "interaction", string(x.Interaction))
	for _, cond := range x.Conditions {
		inner := text(nil, "text", cond.Text)
		inner = append(inner, boolean("met", cond.Met))
		inner = text(inner, "note", cond.Note)
		for _, f := range cond.Found {
			inner = text(inner, "found", f)
		}
		parts = append(parts, part{"name": "condition", "part": inner})
	}
	return map[string]any{"resourceType": "Parameters", "parameter": parts}
}

// resend is POST /fhir/{Type}/{id}/$resend, with Medplum's JSON body, Parameters of the same
// names, or none.
func (s *server) resend(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	body, err := s.readOptional(c)
	if err != nil {
		return err
	}
	r, err := readResend(body)
	if err != nil {
		return err
	}
	r.Key = key
	c.aboutResend(r)
	if _, err := s.admin.Resend(c.r.Context(), r, c.token.ID); err != nil {
		return err
	}
	// To the letter what Medplum answers: its clients compare the id, and people the text.
	return c.sendJSON(http.StatusOK, newOutcome("ok", outcomeIssue{
		Severity: severityInformation, Code: informational, Details: &issueDetails{Text: "All OK"}}))
}

// resendBody is what Medplum's $resend takes, and the version besides.
type resendBody struct {
	Verbose      bool            `json:"verbose"`
	Interaction  string          `json:"interaction"`
	Subscription string          `json:"subscription"`
	Version      record.Sequence `json:"version"`
}

func readResend(body []byte) (Resend, error) {
	if len(body) == 0 {
		return Resend{Interaction: fhir.Update}, nil
	}
	t, err := parseStrict(body, len(body)+1, 0)
	if err != nil {
		return Resend{}, err
	}
	var b resendBody
	if !t.Is(t.Get(t.Root(), "resourceType"), "Parameters") {
		if err := decodeObject(body, &b); err != nil {
			return Resend{}, err
		}
		return b.resend()
	}
	for p := range t.Children(t.Get(t.Root(), "parameter")) {
		value := func(types ...string) string {
			for _, typ := range types {
				if v := t.Str(t.Get(p, typ)); v != "" {
					return v
				}
			}
			return ""
		}
		switch name := t.Str(t.Get(p, "name")); name {
		case "verbose":
			b.Verbose = t.Bool(t.Get(p, "valueBoolean"))
		case "interaction":
			b.Interaction = value("valueCode", "valueString")
		case "subscription":
			if b.Subscription = value("valueString", "valueUri"); b.Subscription == "" {
				b.Subscription = t.Str(t.Get(t.Get(p, "valueReference"), "reference"))
			}
		case "version":
			if b.Version = parseVersion(string(t.Raw(t.Get(p, "valueInteger")))); b.Version == 0 {
				return Resend{}, badRequest("version is a valueInteger, as ETag shows it")
			}
		default:
			return Resend{}, badRequest("parameter " + printable(name) + " is not known here")
		}
	}
	return b.resend()
}

// resend checks the body's values.
func (b resendBody) resend() (Resend, error) {
	r := Resend{Version: b.Version, Interaction: fhir.Interaction(b.Interaction), Verbose: b.Verbose}
	switch r.Interaction {
	case "":
		r.Interaction = fhir.Update
	case fhir.Create, fhir.Update, fhir.Delete:
	default:
		return r, badRequest("interaction is update, create or delete")
	}
	if b.Subscription != "" {
		r.Subscription = fhir.ID(strings.TrimPrefix(b.Subscription, "Subscription/"))
		if !r.Subscription.Valid() {
			return r, badRequest("subscription is of the form Subscription/id")
		}
	}
	return r, nil
}
