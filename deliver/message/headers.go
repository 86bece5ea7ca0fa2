package message

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// The headers of every message beside those that its Subscription asks for.
const (
	headerID           = "webhook-id"
	headerType         = "Content-Type" // none where there is no body
	headerSubscription = "X-Carillon-Subscription"
	headerEvent        = "X-Carillon-Event"
	headerAttempt      = "X-Carillon-Attempt"
	headerResend       = "X-Carillon-Resend"
	headerTest         = "X-Carillon-Test"
	headerInteraction  = "Fhir-Interaction" // create, update or delete
	headerResource     = "Fhir-Resource"    // Type/id
	headerTrace        = "traceparent"
)

// header makes the headers of a notification, with lines of channel.header. Its errors hold no values.
func header(n deliver.Notification, lines []string) (map[string][]string, error) {
	h := map[string][]string{}
	for i, line := range lines {
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, value, ok := fhir.SplitHeader(line)
		if !ok {
			return nil, fmt.Errorf("channel.header[%d] is not of the form Name: value", i)
		}
		if err := checkHeader(name, value); err != nil {
			return nil, fmt.Errorf("channel.header[%d] %w", i, err)
		}
		h[name] = append(h[name], value)
	}
	set := func(name, value string) { h[name] = []string{value} }
	set(headerID, n.Name())
	set(headerSubscription, string(n.Subscription))
	set(headerEvent, strconv.FormatUint(uint64(n.Number), 10))
	set(headerAttempt, strconv.Itoa(n.Attempt))
	set(headerInteraction, string(n.Interaction))
	set(headerResource, n.Key.String())
	if n.Resend {
		set(headerResend, "true")
	}
	if n.Test {
		set(headerTest, "true")
	}
	if n.Trace != "" && fhir.ValidHeaderValue(n.Trace) {
		set(headerTrace, n.Trace)
	}
	return h, nil
}

// headers are all headers as they are published.
func (m *Message) headers() map[string][]string {
	all := maps.Clone(m.Header)
	for name, values := range m.Custom {
		all[name] = append(all[name][:len(all[name]):len(all[name])], values...)
	}
	if len(m.Body) > 0 && len(all[headerType]) == 0 {
		all[headerType] = []string{cmp.Or(m.contentType, "application/fhir+json")}
	}
	return all
}

// check looks at what an interceptor has added.
func (m *Message) check() error {
	for name, values := range m.Custom {
		for _, value := range values {
			if err := checkHeader(name, value); err != nil {
				return fmt.Errorf("a header of an interceptor %w", err)
			}
		}
	}
	return nil
}

// checkHeader refuses what would become another header, or stand in place of one of ours or of the
// engine's. Its errors read on after what is wrong.
func checkHeader(name, value string) error {
	switch {
	case !fhir.ValidHeaderName(name):
		return errors.New("has a name that is not of letters, digits and signs alone")
	case fhir.ReservedMessageHeader(name):
		return fmt.Errorf("names %s, which is set by the sender", name)
	case !fhir.ValidHeaderValue(value):
		return errors.New("has a control character in its value")
	}
	return nil
}
