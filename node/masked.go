package node

import (
	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// unechoed takes out of the answer to a notification what the notification itself was sent with.
func unechoed(r deliver.Receipt, failure *deliver.Error, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	if r.Response == "" && (failure == nil || failure.Response == "") {
		return r, failure
	}
	values := append([]string{}, t.Secrets...)
	for _, line := range t.Headers {
		if _, value, ok := fhir.SplitHeader(line); ok {
			values = append(values, value)
		}
	}
	for _, h := range n.Headers {
		values = append(values, h.Value)
	}
	r.Response = deliver.Masked(r.Response, values...)
	if failure != nil {
		masked := *failure // it may be one that the channel keeps
		masked.Response = deliver.Masked(failure.Response, values...)
		failure = &masked
	}
	return r, failure
}
