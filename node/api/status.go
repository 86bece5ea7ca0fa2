package api

import (
	"net/http"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// StatusOf is the HTTP status of a refusal, for faces other than HTTP that show it too.
func StatusOf(e *fhir.Error) int {
	if e == nil || len(e.Issues) == 0 {
		return http.StatusInternalServerError
	}
	return statusOf(e.Issues[0].Type, true)
}

// ValidTraceparent reports whether a header has the form of W3C Trace Context, version 00 or
// later. What has not is not passed on to endpoints.
func ValidTraceparent(s string) bool { return validTraceparent(s) }
