package fhir

import (
	"errors"
	"strings"
)

// IssueType is a code of http://hl7.org/fhir/issue-type. The HTTP status of a refusal
// follows from it, by the one table in node/api.
type IssueType string

// The issue types that Carillon gives.
const (
	IssueStructure    IssueType = "structure"     // cannot be parsed
	IssueRequired     IssueType = "required"      // a demanded element is missing
	IssueValue        IssueType = "value"         // an element's value is not allowed
	IssueInvariant    IssueType = "invariant"     // elements contradict one another
	IssueNotSupported IssueType = "not-supported" // understood, and not done by this version
	IssueNotFound     IssueType = "not-found"     // no such resource, type or operation
	IssueDeleted      IssueType = "deleted"       // it was there and is deleted
	IssueConflict     IssueType = "conflict"      // the version asked for is not the current one
	IssueDuplicate    IssueType = "duplicate"     // several match where one may
	IssueTooLong      IssueType = "too-long"      // larger than a limit
	IssueSecurity     IssueType = "security"      // login missing
	IssueForbidden    IssueType = "forbidden"     // rights missing
	IssueThrottled    IssueType = "throttled"     // come again later
	IssueTransient    IssueType = "transient"     // no quorum, stopping: come again later
	IssueNoStore      IssueType = "no-store"      // the disk is full
	IssueProcessing   IssueType = "processing"    // refused for a reason of its own
	IssueException    IssueType = "exception"     // our own fault
	IssueTooCostly    IssueType = "too-costly"    // takes longer than there is time for: narrow it
	IssueIncomplete   IssueType = "incomplete"    // an answer was cut; as a warning
)

// Issue is one thing that is wrong with what a client sent, and the way out.
type Issue struct {
	Type        IssueType
	Diagnostics string // names the thing; never holds a value out of a resource's clinical content
	Expression  string // FHIRPath of the element, such as Subscription.channel.endpoint; may be empty
}

// Error is a refusal: one or more issues. Every layer that looks at input returns it, and
// node/api turns it into an OperationOutcome.
type Error struct {
	Issues []Issue
}

// Error joins the issues' diagnostics.
func (e *Error) Error() string {
	s := make([]string, len(e.Issues))
	for i, is := range e.Issues {
		s[i] = is.Diagnostics
		if is.Expression != "" {
			s[i] = is.Expression + ": " + s[i]
		}
	}
	return strings.Join(s, "; ")
}

// Refuse makes an Error of a single issue.
func Refuse(t IssueType, expression, diagnostics string) *Error {
	return &Error{Issues: []Issue{{Type: t, Diagnostics: diagnostics, Expression: expression}}}
}

// AsError finds the refusal in an error's chain; nil if there is none.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}
