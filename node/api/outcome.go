package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// informational is the issue type of what is no error (http://hl7.org/fhir/issue-type).
const informational = fhir.IssueInformational

// statusOf is the one table from issue type to HTTP status (FHIR R4 3.1.0: 400 for what cannot
// be parsed, 422 for what can and is refused). A conflict is 412 where the client gave a
// precondition and 409 where it gave none (3.1.0.5).
func statusOf(t fhir.IssueType, precondition bool) int {
	switch t {
	case fhir.IssueStructure:
		return http.StatusBadRequest
	case fhir.IssueRequired, fhir.IssueValue, fhir.IssueInvariant, fhir.IssueNotSupported, fhir.IssueProcessing, fhir.IssueTooCostly:
		return http.StatusUnprocessableEntity
	case fhir.IssueNotFound:
		return http.StatusNotFound
	case fhir.IssueDeleted:
		return http.StatusGone
	case fhir.IssueConflict:
		if precondition {
			return http.StatusPreconditionFailed
		}
		return http.StatusConflict
	case fhir.IssueDuplicate:
		return http.StatusPreconditionFailed
	case fhir.IssueTooLong:
		return http.StatusRequestEntityTooLarge
	case fhir.IssueSecurity:
		return http.StatusUnauthorized
	case fhir.IssueForbidden:
		return http.StatusForbidden
	case fhir.IssueThrottled:
		return http.StatusTooManyRequests
	case fhir.IssueTransient:
		return http.StatusServiceUnavailable
	case fhir.IssueNoStore:
		return http.StatusInsufficientStorage
	case informational:
		return http.StatusOK
	}
	return http.StatusInternalServerError
}

// refusal is a *fhir.Error with the status that HTTP or FHIR asks for in its case, where the
// table would give another.
type refusal struct {
	status int
	err    *fhir.Error
	header http.Header
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// badRequest is a request that says one thing in two ways, or in a way that is not understood.
func badRequest(diagnostics string) error {
	return &refusal{status: http.StatusBadRequest, err: fhir.Refuse(fhir.IssueValue, "", diagnostics)}
}

// isIssue reports whether err is a refusal whose first issue has this type.
func isIssue(err error, t fhir.IssueType) bool {
	fe := fhir.AsError(err)
	return fe != nil && len(fe.Issues) > 0 && fe.Issues[0].Type == t
}

// judged is an error as it is answered.
type judged struct {
	status int
	issues []fhir.Issue
	header http.Header
	fault  bool // ours: to be logged
}

// judge decides how an error is answered. What is no refusal is our own fault: its text may
// name anything, so it goes to the log alone.
func judge(ctx context.Context, err error, precondition bool) judged {
	var own *refusal
	if errors.As(err, &own) {
		return judged{status: own.status, issues: fhir.AsError(err).Issues, header: own.header}
	}
	fe := fhir.AsError(err)
	switch {
	case fe == nil && errors.Is(err, context.DeadlineExceeded), fe == nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		fe = fhir.Refuse(fhir.IssueTransient, "", "the request ended before its work was done; what it asked for may or may not have happened")
	case fe == nil || len(fe.Issues) == 0 || fe.Issues[0].Type == fhir.IssueException:
		return judged{status: http.StatusInternalServerError, fault: true,
			issues: []fhir.Issue{{Type: fhir.IssueException, Diagnostics: "internal error; the server's log has more under this request's id"}}}
	}
	j := judged{status: statusOf(fe.Issues[0].Type, precondition), issues: fe.Issues, header: http.Header{}}
	switch j.status {
	case http.StatusUnauthorized:
		j.header.Set("WWW-Authenticate", `Bearer realm="carillon"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		j.header.Set("Retry-After", strconv.Itoa(int(retryAfter(err).Round(time.Second)/time.Second)))
	}
	return j
}

// retryAfter is the wait that an error asks for, at least a second.
func retryAfter(err error) time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		return max(r.RetryAfter(), time.Second)
	}
	return 2 * time.Second
}

// Severities of http://hl7.org/fhir/issue-severity.
const (
	severityFatal       = "fatal"
	severityError       = "error"
	severityWarning     = "warning"
	severityInformation = "information"
)

// outcome is an OperationOutcome.
type outcome struct {
	ResourceType string         `json:"resourceType"`
	ID           string         `json:"id,omitempty"`
	Extension    []extension    `json:"extension,omitempty"`
	Issue        []outcomeIssue `json:"issue"`
}

type extension struct {
	URL         string `json:"url"`
	ValueString string `json:"valueString"`
}

type outcomeIssue struct {
	Severity    string         `json:"severity"`
	Code        fhir.IssueType `json:"code"`
	Details     *issueDetails  `json:"details,omitempty"`
	Diagnostics string         `json:"diagnostics,omitempty"`
	Expression  []string       `json:"expression,omitempty"`
}

// issueDetails is the CodeableConcept of an issue, as far as we fill it.
type issueDetails struct {
	Text string `json:"text"`
}

// requestIDExtension carries a request's id in an OperationOutcome where it is not of the form
// that an id of FHIR has.
const requestIDExtension = "https://carillon-fhir.github.io/StructureDefinition/request-id"

// newOutcome makes the OperationOutcome of a request. Its id is the request's, so that whoever
// reports an error also names its line in the log.
func newOutcome(requestID string, issues ...outcomeIssue) outcome {
	o := outcome{ResourceType: "OperationOutcome", Issue: issues}
	switch {
	case requestID == "":
	case fhir.ID(requestID).Valid():
		o.ID = requestID
	default:
		o.Extension = []extension{{URL: requestIDExtension, ValueString: requestID}}
	}
	return o
}

// issuesOf words issues with one severity.
func issuesOf(severity string, issues []fhir.Issue) []outcomeIssue {
	out := make([]outcomeIssue, len(issues))
	for i, is := range issues {
		out[i] = outcomeIssue{Severity: severity, Code: is.Type, Diagnostics: is.Diagnostics}
		if is.Expression != "" {
			out[i].Expression = []string{is.Expression}
		}
	}
	return out
}

// errorOutcome is the OperationOutcome of an error as it was judged.
func (j judged) outcome(requestID string) outcome {
	severity := severityError
	if j.fault {
		severity = severityFatal
	}
	return newOutcome(requestID, issuesOf(severity, j.issues)...)
}

// encode is the JSON of our own objects, which always have one.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("api: encode answer: " + err.Error())
	}
	return b
}
