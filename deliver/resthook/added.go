package resthook

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// add puts the headers of a notification beside those of its Subscription. They are held to the
// same rules; the errors hold no values.
func add(h http.Header, headers []deliver.Header) error {
	for _, x := range headers {
		switch {
		case !fhir.ValidHeaderName(x.Name):
			return errors.New("a header of an interceptor has a name that HTTP does not allow")
		case fhir.ReservedHeader(x.Name):
			return fmt.Errorf("a header of an interceptor names %s, which is set by the sender", textproto.CanonicalMIMEHeaderKey(x.Name))
		case !fhir.ValidHeaderValue(x.Value):
			return errors.New("a header of an interceptor has a character in its value that HTTP does not allow")
		}
		h.Add(x.Name, x.Value)
	}
	return nil
}
